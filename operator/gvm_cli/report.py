"""`gvm report`: writes a run's report, whole or as far as the run got."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gvm_cli.files import check_page_name, replace_file
from gvm_cli.recorded_run import read_run


def report(
    run_dir: Annotated[Path, typer.Argument(help="The directory of a run, e.g. runs/arithmetic.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page, NAME.html; its plots go to NAME-plots beside it."),
    ] = None,
) -> None:
    """Write a run's report: RUN_DIR/report.html, and every plot as PNG in RUN_DIR/plots.

    The page is one file that needs no network, fit to be attached to a ticket
    or printed. It shows accuracy by iteration and by tokens, what the run cost,
    how samples were spread over prompts, the gradient
    variance against the uniform plan's, training health, where the time went,
    failures, some samples, how to reproduce the run, and what all of it means.
    A run that is still going, or was killed, is reported as far as it got.

    Example: gvm report runs/arithmetic

    Example: gvm report runs/arithmetic -o arithmetic.html
    """
    try:
        typer.echo(write_report(run_dir, output))
    except ValueError as error:
        for problem in str(error).splitlines():
            typer.echo(f"gvm: {problem}", err=True)
        raise typer.Exit(2) from error


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the report of a run, and its plots as PNG; return the page's path.

    Raises:
        ValueError: `run_dir` holds no run, or one without an iteration, `output` is not NAME.html, or a file cannot
            be written.
    """
    # Imported here: matplotlib takes a second that no other command should wait for.
    from gvm_cli import report_page, report_plots, report_plots_allocation
    from gvm_cli.plots import to_png
    from gvm_cli.report_samples import newest_samples

    if output is not None:
        check_page_name(output)
    run = read_run(run_dir)
    samples, num_torn = newest_samples(run_dir)
    run = replace(run, num_unreadable=run.num_unreadable + num_torn)
    plots = {
        "accuracy": report_plots.accuracy_plots(run),
        "cost": report_plots.cost_plots(run),
        "allocation": report_plots_allocation.allocation_plots(run),
        "variance": report_plots_allocation.variance_plots(run),
        "health": report_plots.health_plots(run),
        "time": report_plots.time_plots(run),
        "problems": report_plots.failure_plots(run),
    }
    path = output or run_dir / "report.html"
    # With --output nothing is written to the run directory, which may be another's, or read-only.
    folder = run_dir / "plots" if output is None else path.with_name(f"{path.stem}-plots")
    replace_file(path, report_page.render(run, plots, samples))
    for plot in (plot for section in plots.values() for plot in section):
        replace_file(folder / f"{plot.name}.png", plot.png)
    convergence = report_plots.convergence(run)
    if convergence is not None and output is None:
        replace_file(run_dir / "convergence.png", to_png(convergence))
    return path
