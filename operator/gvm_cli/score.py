"""`gvm score`: try a reward on one's own completions."""

import sys
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from gvm_api.load import describe_problem
from gvm_api.spec import RewardSpec


def score(
    reward: Annotated[Literal["math", "exact", "regex", "python"], typer.Option(help="Which reward.")] = "math",
    pattern: Annotated[str | None, typer.Option(help="exact: group 1 is the answer. regex: what to find.")] = None,
    function: Annotated[str | None, typer.Option(help="python: package.module:function.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one verdict.")] = 5.0,
    workers: Annotated[int, typer.Option(help="Verifier processes.")] = 2,
) -> None:
    """Judge completions: JSON lines {completion, answer} in, {reward, outcome} out, in the same order.

    Example: echo '{"completion": "so \\\\boxed{1/2}", "answer": "0.5"}' | gvm score --reward math
    """
    # Imported here: the verifier belongs to the trainer's dependencies, which other commands do without.
    from gvm_trainer.rewards import Verifier, score_lines

    try:
        spec = RewardSpec.model_validate(
            {"type": reward, "pattern": pattern, "function": function, "timeoutSeconds": timeout, "workers": workers}
        )
        with Verifier(spec) as verifier:
            for line in score_lines(sys.stdin, verifier):
                typer.echo(line)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            typer.echo(f"gvm: {describe_problem(RewardSpec, dict(each))}", err=True)
        raise typer.Exit(2) from error
    except ValueError as error:
        typer.echo(f"gvm: {error}", err=True)
        raise typer.Exit(2) from error
