"""`gvm compare`: accuracy against samples of several runs in one page, and a table on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gvm_cli.comparison import Curve, check_comparable, comparison_table, curves
from gvm_cli.recorded_run import Run, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(
    run_dirs: Annotated[list[Path], typer.Argument(help="Directories of two or more runs.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page; default compare.html.")] = None,
) -> None:
    """Compare allocation policies: accuracy against samples, averaged over seeds.

    Writes one page and prints a table. Runs are grouped by their allocation
    policy; the spread is one standard deviation over seeds. Runs that differ in
    anything else that matters (model, data set, samples and updates an
    iteration, learning rate, KL coefficient, …) are refused with exit 2. Give
    each policy at least three seeds: with fewer, a difference may be chance.

    Example: gvm compare runs/uniform-* runs/gvm-* -o compare.html
    """
    try:
        runs = [read_run(run_dir) for run_dir in run_dirs]
        check_comparable(runs)
        all_curves = curves(runs)
    except ValueError as error:
        for problem in str(error).splitlines():
            typer.echo(f"gvm: {problem}", err=True)
        raise typer.Exit(2) from error
    path = output or Path("compare.html")
    path.write_text(render(runs, all_curves), encoding="utf-8")
    header, *rows = comparison_table(all_curves)
    shown = Table(*header)
    for row in rows:
        shown.add_row(*row)
    console = Console(soft_wrap=True)
    console.print(shown)
    for remark in _remarks(all_curves):
        console.print(remark, highlight=False)
    typer.echo(path)


def render(runs: list[Run], all_curves: tuple[Curve, ...]) -> str:
    """The comparison as HTML."""
    # Imported here: matplotlib takes a second that no other command should wait for.
    from gvm_cli.page import page, paragraph, plots, section, table

    name = runs[0].evaluation_sets[0]
    caption = f"Accuracy on {name}, mean over seeds; the band is one standard deviation. Samples count the pilot."
    return page(
        "Comparison of allocation policies",
        *(paragraph(remark) for remark in _remarks(all_curves)),
        table(comparison_table(all_curves), has_header=True),
        section("Accuracy", plots(("Accuracy by samples", caption, _figure(all_curves)))),
        section("Runs", table([("run", "allocation", "seed"), *map(_run_row, runs)], has_header=True)),
    )


def _run_row(run: Run) -> tuple[str, ...]:
    return str(run.directory), run.job.spec.allocation.policy, str(run.job.spec.algorithm.seed)


def _remarks(all_curves: tuple[Curve, ...]) -> list[str]:
    few = [curve.policy for curve in all_curves if curve.num_runs < 3]
    return [f"Fewer than three seeds of {', '.join(few)}: a difference may be chance."] if few else []


def _figure(all_curves: tuple[Curve, ...]) -> "Figure":
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

    from gvm_cli.plots import SERIES, add_legend, new_figure

    figure, (axes,) = new_figure(x="samples drawn, pilot included", y="accuracy")
    for curve, colour in zip(all_curves, SERIES, strict=False):
        low, high = curve.accuracy - curve.spread, curve.accuracy + curve.spread
        axes.fill_between(curve.samples, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(curve.samples, curve.accuracy, color=colour, marker="o", markersize=3, label=curve.policy)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    add_legend(axes)
    return figure
