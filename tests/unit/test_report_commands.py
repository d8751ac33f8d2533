"""`gvm report` and `gvm compare` as commands: what they print, and their exit codes."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gvm_cli.compare import compare
from gvm_cli.report import report


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(report)
    app.command()(compare)
    return app


def write_run(run_dir: Path, policy: str) -> Path:
    run_dir.mkdir()
    (run_dir / "job.yaml").write_text(
        "apiVersion: gvm.rlhflow.dev/v1alpha1\nkind: GVMTrainingJob\nmetadata: {name: sums}\n"
        f"spec: {{model: {{path: m}}, dataset: {{path: d}}, allocation: {{policy: {policy}}}}}\n"
    )
    (run_dir / "metrics.jsonl").write_text(
        '{"iteration": 0, "eval": {"a": {"accuracy": 0.25, "num_prompts": 8, "samples": 1}}}\n'
    )
    return run_dir


def test_report_prints_the_path_of_its_page(app: typer.Typer, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", "gvm")
    result = CliRunner().invoke(app, ["report", str(run_dir)])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(run_dir / "report.html")
    assert "Accuracy on a: 25.0%, measured once." in (run_dir / "report.html").read_text()
    assert (run_dir / "plots" / "accuracy_by_iteration.png").exists()


def test_report_writes_where_it_is_told_to_and_leaves_the_run_directory_alone(app: typer.Typer, tmp_path: Path) -> None:
    run_dir, page = write_run(tmp_path / "run", "gvm"), tmp_path / "page.html"
    before = sorted(run_dir.rglob("*"))
    result = CliRunner().invoke(app, ["report", str(run_dir), "-o", str(page)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(page))
    assert page.exists()
    assert (tmp_path / "page-plots" / "accuracy_by_iteration.png").exists()
    assert sorted(run_dir.rglob("*")) == before


def test_report_exits_2_and_says_why_for_a_directory_without_a_run(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"gvm: {tmp_path}: is no run directory")


@pytest.mark.parametrize(("name", "fit"), [(".", "page.html"), ("page.png", "page.html"), ("folder", "folder.html")])
def test_a_page_is_named_html(app: typer.Typer, tmp_path: Path, name: str, fit: str) -> None:
    run_dir = str(write_run(tmp_path / "run", "gvm"))
    for command in (["report", run_dir], ["compare", run_dir, run_dir]):
        result = CliRunner().invoke(app, [*command, "-o", name])
        assert result.exit_code == 2
        assert result.stderr == f"gvm: --output '{name}': does not end in .html; name a page, e.g. {fit}\n"


def test_compare_prints_a_table_and_writes_a_page(app: typer.Typer, tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / policy, policy)) for policy in ("uniform", "gvm")]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", *runs, "--output", str(page)])
    assert result.exit_code == 0
    assert "uniform" in result.stdout
    assert "Fewer than three seeds" in result.stdout
    assert page.read_text().startswith("<!doctype html>")
    pictures = [tmp_path / name for name in ("page.png", "page_by_samples.png", "page_by_iteration.png")]
    assert result.stdout.splitlines()[-4:] == [str(page), *map(str, pictures)]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_compare_takes_labels_and_a_baseline(app: typer.Typer, tmp_path: Path) -> None:
    runs = [f"{label}={write_run(tmp_path / label, 'gvm')}" for label in ("two", "four")]
    result = CliRunner().invoke(app, ["compare", *runs, "-o", str(tmp_path / "x.html"), "--baseline", "four"])
    assert result.exit_code == 0, result.stderr
    assert "difference from four" in result.stdout
    refused = CliRunner().invoke(app, ["compare", *runs, "-o", str(tmp_path / "y.html"), "--baseline", "six"])
    assert (refused.exit_code, refused.stderr) == (
        2,
        "gvm: --baseline 'six': is not among two, four; choose one of these\n",
    )
    assert not (tmp_path / "y.html").exists()


def test_compare_exits_2_and_names_each_difference(app: typer.Typer, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / policy, policy) for policy in ("uniform", "gvm")]
    job = runs[1] / "job.yaml"
    job.write_text(job.read_text().replace("path: m", "path: n").replace("path: d", "path: e"))
    result = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert result.exit_code == 2
    assert [text.split(":")[:2] for text in result.stderr.splitlines()] == [
        ["gvm", " spec.dataset.path"],
        ["gvm", " spec.model.path"],
    ]
