"""`gvm report`: writes a run's report, whole or as far as the run got."""

from pathlib import Path
from typing import Annotated

import typer

from gvm_cli.recorded_run import read_run


def report(
    run_dir: Annotated[Path, typer.Argument(help="The directory of a run, e.g. runs/arithmetic.")],
) -> None:
    """Write a run's report: RUN_DIR/report.html and RUN_DIR/convergence.png.

    The page is one file that needs no network. It shows accuracy by iteration
    and by samples, what the run cost (the pilot included), the gradient variance
    against the uniform plan's, how samples were spread over prompts, and where
    the time went. A run that is still going, or was killed, is reported as far
    as it got.

    Example: gvm report runs/arithmetic
    """
    try:
        typer.echo(write_report(run_dir))
    except ValueError as error:
        for problem in str(error).splitlines():
            typer.echo(f"gvm: {problem}", err=True)
        raise typer.Exit(2) from error


def write_report(run_dir: Path) -> Path:
    """Write the report of a run, and its accuracy curve as PNG where there is one; return the report's path.

    Raises:
        ValueError: `run_dir` holds no run, or one without an iteration.
    """
    # Imported here: matplotlib takes a second that no other command should wait for.
    from gvm_cli import report_page, report_plots
    from gvm_cli.plots import to_png

    run = read_run(run_dir)
    path = run_dir / "report.html"
    path.write_text(report_page.render(run), encoding="utf-8")
    convergence = report_plots.convergence(run)
    if convergence is not None:
        (run_dir / "convergence.png").write_bytes(to_png(convergence))
    return path
