"""`gvm samples`: reads what the model wrote, and how it was judged."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gvm_cli.recorded_samples import count, find
from gvm_cli.sample_query import ALL_COLUMNS, COLUMNS, Outcome, Query, SortKey, Stage, choose, sample_files
from gvm_cli.samples_view import sample_json, sample_text
from gvm_cli.terminal import new_console


def samples(
    run_dir: Annotated[Path, typer.Argument(help="The directory of a run, e.g. runs/arithmetic.")],
    iteration: Annotated[
        str | None, typer.Option("--iteration", "-i", help="One, a range such as 3-5, or all; default the last.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Id of a prompt.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="The verdict; timeout and error are none.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="pilot: of a first stage; main: all others.")] = None,
    min_accept_rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Prompts with an estimated accept rate p of at least this.")
    ] = None,
    max_accept_rate: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="… of at most this.")] = None,
    search: Annotated[
        str, typer.Option("--search", "-s", help="Text in prompt, answer or completion; upper or lower case.")
    ] = "",
    sort: Annotated[SortKey | None, typer.Option(help="Largest first; default as they were drawn.")] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="With --sort: smallest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Print so many; 0 prints all.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines with every column.")] = False,
) -> None:
    """Print samples of a run: prompt, answer, completion, verdict, and why the prompt got that many.

    p is the prompt's accept rate and G the norm of its gradient, as they were
    estimated before that iteration; n_i is how many samples the prompt got,
    all stages together. Filters may be combined. Characters that would not show
    are printed as escapes.

    The last iteration's first ten:

    Example: gvm samples runs/arithmetic

    What the model gets wrong although the prompt is easy:

    Example: gvm samples runs/arithmetic --outcome rejected --min-accept-rate 0.8

    How one prompt fared over the whole run:

    Example: gvm samples runs/arithmetic --iteration all --prompt train-0448

    The longest answers, for jq:

    Example: gvm samples runs/arithmetic --sort tokens --limit 3 --json | jq .completion
    """
    query = Query(
        prompt_id=prompt,
        outcome=outcome,
        stage=stage,
        min_accept_rate=min_accept_rate,
        max_accept_rate=max_accept_rate,
        search=search,
        sort=sort,
        is_ascending=ascending,
        limit=limit,
    )
    try:
        files = choose(sample_files(run_dir), iteration)
        num_shown = 0
        console = new_console()
        for row in find(run_dir, files, query, ALL_COLUMNS if as_json else COLUMNS):
            num_shown += 1
            if as_json:
                sys.stdout.write(sample_json(row) + "\n")
            else:
                console.print(sample_text(row))
        if not num_shown or num_shown == limit:
            _remark(num_shown, count(run_dir, files, query), count(run_dir, files, Query()))
    except ValueError as error:
        for problem in str(error).splitlines():
            typer.echo(f"gvm: {problem}", err=True)
        raise typer.Exit(2) from error


def _remark(num_shown: int, num_matching: int, num_all: int) -> None:
    """Say what is not shown; to standard error, where it is in nobody's way."""
    if not num_shown:
        typer.echo(
            f"gvm: none of {num_all:,} samples matches; leave out a filter, or look at --iteration all", err=True
        )
    elif num_matching > num_shown:
        typer.echo(f"gvm: {num_shown:,} of {num_matching:,} samples; --limit 0 prints all", err=True)
