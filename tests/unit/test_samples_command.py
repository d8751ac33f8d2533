"""`gvm samples` as a command: text that reads, JSON that programs read, one line for each fault."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from gvm_cli.samples import samples
from gvm_cli.samples_view import sample_json, sample_text

ROW: dict[str, Any] = {
    "iteration": 3,
    "prompt_id": "q-1",
    "prompt": "12+25=",
    "answer": "37",
    "stage": "main",
    "index": 0,
    "completion": "12+25\nis 37 [b]",
    "num_tokens": 9,
    "reward": 1.0,
    "outcome": "accepted",
    "finish_reason": "stop",
    "policy_version": 2,
    "accept_rate": 0.75,
    "grad_norm": 12.5,
    "sample_size": 4,
    "token_ids": [5, 6],
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    (tmp_path / "job.yaml").write_text(
        "apiVersion: gvm.rlhflow.dev/v1alpha1\nkind: GVMTrainingJob\nmetadata: {name: sums}\n"
        "spec: {model: {path: m}, dataset: {path: d}}\n"
    )
    rows = [ROW | {"index": index, "completion": f"{index} \x1b[31m\x7f é"} for index in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "samples" / "000003.parquet")
    return tmp_path


def run(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(samples)
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_sample_reads_from_what_it_is_to_what_was_answered() -> None:
    assert sample_text(ROW).plain == (
        "q-1  iteration 3  main 0  accepted  reward 1\n"
        "  9 tokens (stop)  p 0.750  G 12.5  n_i 4  policy version 2\n"
        "  prompt      12+25=\n"
        "  answer      37\n"
        "  completion\n"
        "  | 12+25\n"
        "  | is 37 [b]\n"
    )


def test_what_is_not_known_of_a_sample_is_a_dash() -> None:
    text = sample_text(dict.fromkeys(ROW) | {"prompt_id": "q-1", "outcome": "timeout"}).plain
    assert text.startswith("q-1  iteration –  None –  timeout  reward –\n  – tokens  p –  G –  n_i –")


def test_json_is_strict_and_has_no_control_characters() -> None:
    text = sample_json(ROW | {"completion": "\x1b[31m\x7f\x9b\u2028\n é"})
    assert text.isprintable()
    assert "é" in text
    assert json.loads(text)["completion"] == "\x1b[31m\x7f\x9b\u2028\n é"


def test_ten_samples_are_printed_and_the_rest_is_mentioned_beside(run_dir: Path) -> None:
    result = run(run_dir)
    assert result.exit_code == 0
    assert result.stdout.count("q-1  iteration 3") == 10
    assert "  completion  0 \\x1b[31m\\x7f é\n" in result.stdout
    assert result.stderr == "gvm: 10 of 12 samples; --limit 0 prints all\n"


def test_all_samples_as_json_lines_have_every_column(run_dir: Path) -> None:
    result = run(run_dir, "--json", "--limit", 0)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["index"] for line in lines] == list(range(12))
    assert set(lines[0]) == set(ROW)
    assert lines[0]["token_ids"] == [5, 6]
    assert result.stderr == ""


def test_filters_that_leave_nothing_say_so_and_are_no_error(run_dir: Path) -> None:
    result = run(run_dir, "--outcome", "rejected")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("gvm: none of 12 samples matches; leave out a filter")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--iteration", "9"), "gvm: --iteration 9: there are samples of iteration 3; choose"),
        (("--outcome", "wrong"), "'wrong' is not one of 'accepted', 'rejected', 'timeout', 'error'"),
        (("--min-accept-rate", "1.5"), "Invalid value for '--min-accept-rate'"),
        (("--limit", "-1"), "Invalid value for '--limit'"),
    ],
)
def test_bad_options_are_exit_2(run_dir: Path, options: tuple[str, str], said: str) -> None:
    result = run(run_dir, *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_as_a_process_it_prints_no_control_characters_into_a_pipe_and_ends_quietly_with_it(run_dir: Path) -> None:
    variables = dict(os.environ) | {"FORCE_COLOR": "1", "COLUMNS": "40"}
    command = [sys.executable, "-m", "gvm_cli.main", "samples", str(run_dir), "--limit", "0"]
    done = subprocess.run(command, capture_output=True, check=True, env=variables, timeout=60)
    assert done.stdout.decode().replace("\n", "").isprintable()
    assert done.stdout.count(b"q-1") == 12
    head = subprocess.run(
        f"{' '.join(command)} | head -n 1", shell=True, capture_output=True, check=True, env=variables, timeout=60
    )
    assert (head.stdout.count(b"\n"), head.stderr) == (1, b"")


def test_other_commands_do_not_load_pyarrow() -> None:
    code = "import gvm_cli.main, sys; print([m for m in ('pyarrow', 'scipy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
