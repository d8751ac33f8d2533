"""`gvm compare`: accuracy against tokens of several runs, with intervals over seeds, as a page and on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from gvm_cli.comparability import DEFAULT_TOKEN_TOLERANCE, check_comparable
from gvm_cli.files import check_page_name, replace_file
from gvm_cli.run_groups import Group, read_groups
from gvm_cli.terminal import new_console

if TYPE_CHECKING:
    from gvm_cli.comparison import Comparison


def compare(
    run_dirs: Annotated[list[str], typer.Argument(help="Directories of two or more runs, or LABEL=RUN_DIR.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, NAME.html; PNGs are put beside it.")] = Path(
        "compare.html"
    ),
    baseline: Annotated[
        str | None, typer.Option(help="Policy or label to compare with; default uniform, else the first.")
    ] = None,
    token_tolerance: Annotated[
        float, typer.Option(min=0.0, help="By how much groups may differ in generated tokens, as a share.")
    ] = DEFAULT_TOKEN_TOLERANCE,
) -> None:
    """Compare runs at equal tokens: accuracy with 95% intervals over seeds.

    Runs are grouped by their allocation policy, or by a label of yours. Prints
    a table and a verdict, and writes one page (and its plots as PNG): accuracy
    by generated tokens (of all stages), by samples and by iterations.

    Runs that differ in anything that matters are refused with exit 2, a line a
    difference: model, data, reward, algorithm, learning rate, KL anchor, the
    budget of an iteration, optimiser steps, generated tokens
    (--token-tolerance). A budget may be spread over other numbers of prompts:
    uniform with one sample on 512 compares with gvm and half a sample on 1024.
    Give each policy at
    least three seeds, the same ones: with fewer, a difference may be chance.

    Two policies, three seeds each:

    Example: gvm compare runs/uniform-* runs/gvm-* -o compare.html

    Two settings of one policy:

    Example: gvm compare 'wide=runs/a-*' 'narrow=runs/b-*' --baseline narrow
    """
    try:
        check_page_name(output)
        groups = read_groups(run_dirs)
        check_comparable(groups, token_tolerance)
        _write(groups, output, baseline, token_tolerance)
    except ValueError as error:
        for problem in str(error).splitlines():
            typer.echo(f"gvm: {problem}", err=True)
        raise typer.Exit(2) from error


def _write(groups: tuple[Group, ...], output: Path, baseline: str | None, token_tolerance: float) -> None:
    # Imported here: matplotlib and scipy take a second that no other command should wait for.
    from gvm_cli import compare_page, compare_tables
    from gvm_cli.comparison import compare_groups

    comparison = compare_groups(groups, baseline)
    drawn = compare_page.comparison_plots(groups, comparison)
    remarks = compare_tables.remarks(groups, token_tolerance, DEFAULT_TOKEN_TOLERANCE)
    replace_file(output, compare_page.render(groups, comparison, drawn, remarks))
    pictures = [output.with_suffix(".png"), *(output.with_name(f"{output.stem}_{p.name}.png") for p in drawn[1:])]
    for path, plot in zip(pictures, drawn, strict=True):
        replace_file(path, plot.png)
    _print(comparison, remarks)
    for path in (output, *pictures):
        typer.echo(path)


def _print(comparison: "Comparison", remarks: list[str]) -> None:
    from gvm_cli.compare_tables import caption, result_table
    from gvm_cli.verdicts import verdicts

    console = new_console()
    header, *rows = result_table(comparison)
    shown = Table(*header)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for text in (caption(comparison), *verdicts(comparison), *remarks):
        console.print(text)
