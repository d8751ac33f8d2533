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


def test_report_exits_2_and_says_why_for_a_directory_without_a_run(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"gvm: {tmp_path}: is no run directory")


def test_compare_prints_a_table_and_writes_a_page(app: typer.Typer, tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / policy, policy)) for policy in ("uniform", "gvm")]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", *runs, "--output", str(page)])
    assert result.exit_code == 0
    assert "uniform" in result.stdout
    assert "Fewer than three seeds" in result.stdout
    assert page.read_text().startswith("<!doctype html>")


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
