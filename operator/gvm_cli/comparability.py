"""Whether runs may be compared: they differ in nothing but allocation, seed, length and machines. Pure.

The usual way to a wrong claim is a baseline that was given fewer updates, another learning rate or fewer tokens, so
these are held against what the runs recorded, not only against what their jobs say.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from gvm_cli.recorded_run import Line, Run, number
from gvm_cli.report_summary import total_tokens
from gvm_cli.run_groups import Group

DEFAULT_TOKEN_TOLERANCE = 0.1

_MUST_MATCH = (
    "model.",
    "dataset.",
    "reward.",
    "algorithm.",
    "evaluation.datasets",
    "allocation.samplesPerPrompt",
    "learner.learningRate",
    "learner.warmupSteps",
    "learner.weightDecay",
    "learner.adamBetas",
    "learner.maxGradNorm",
    "rollout.maxResponseTokens",
)
_MAY_DIFFER = ("algorithm.seed", "algorithm.maxIterations", "reward.workers")
_FIXES = {
    "learner.learningRate": "a larger step is no better allocation; run one again with the other's learning rate",
    "algorithm.updatesPerIteration": "more updates are no better allocation; run one again with the other's",
    "algorithm.klCoefficient": "the KL anchor differs; run one again with the other's coefficient",
    "model.path": "the model is what is trained, and the KL anchor; run one again with the other's",
    "model.revision": "the model is what is trained, and the KL anchor; run one again with the other's",
}
_FIX = "runs that differ in it do not compare; run one again with the other's value"


def check_comparable(groups: Sequence[Group], token_tolerance: float = DEFAULT_TOKEN_TOLERANCE) -> None:
    """Raise ValueError, a line a difference, unless the runs may be compared.

    Args:
        groups: the runs, by what is compared.
        token_tolerance: by how much groups may differ in generated tokens at their last shared iteration, as a share
            of the fewer.
    """
    runs = [run for group in groups for run in group.runs]
    if len(runs) < 2:
        raise ValueError("RUN_DIRS: one run cannot be compared; give at least two, e.g. of uniform and of gvm")
    problems = [problem for run in runs[1:] for problem in _job_differences(runs[0], run)]
    problems += [problem for group in groups for problem in _within(group)]
    if not problems:  # else what was recorded differs for these reasons
        problems += [problem for run in runs[1:] for problem in _recorded_differences(runs[0], run, last_shared(runs))]
        problems += _token_differences(groups, token_tolerance)
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))


def last_shared(runs: Sequence[Run]) -> int | None:
    """The last training iteration that every run did; None where there is none."""
    return max(set.intersection(*({line["iteration"] for line in run.trained} for run in runs)), default=None)


def token_means(groups: Sequence[Group]) -> list[float]:
    """Generated tokens of each group's runs on average, pilot included, at the last shared iteration; NaN: none."""
    last = last_shared([run for group in groups for run in group.runs])
    if last is None:
        return [math.nan] * len(groups)
    totals = [[total_tokens(_line(run, last)) for run in group.runs] for group in groups]
    return [sum(each) / len(each) for each in totals]


def token_excess(groups: Sequence[Group]) -> float:
    """Largest difference of `token_means`, as a share of the fewest; 0 where nothing is known."""
    means = [mean for mean in token_means(groups) if mean > 0]
    return max(means) / min(means) - 1 if means else 0.0


def _job_differences(a: Run, b: Run) -> Iterator[str]:
    for key, left, right in _differing(a, b, _MUST_MATCH, _MAY_DIFFER):
        yield f"spec.{key}: {left!r} in {a.directory} but {right!r} in {b.directory}; {_FIXES.get(key, _FIX)}"


def _within(group: Group) -> Iterator[str]:
    """Runs that are averaged have one allocation, and a seed of their own."""
    taken: dict[int, Run] = {}
    for run, seed in zip(group.runs, group.seeds, strict=True):
        first, other = group.runs[0], taken.setdefault(seed, run)
        for key, left, right in _differing(first, run, ("allocation.",), ("allocation.samplesPerPrompt",)):
            yield (
                f"spec.{key}: {left!r} in {first.directory} but {right!r} in {run.directory}; runs of {group.label} "
                f"are averaged, so tell these apart: LABEL={run.directory}"
            )
        if other is not run:
            yield (
                f"spec.algorithm.seed: {other.directory} and {run.directory} are both of {group.label} and have seed "
                f"{seed}; give each run its own seed"
            )


def _recorded_differences(a: Run, b: Run, last: int | None) -> Iterator[str]:
    """Learning rates at any shared iteration, optimiser steps at the last one."""
    by_iteration = {line["iteration"]: line for line in b.trained}
    for line in a.trained:
        other = by_iteration.get(line["iteration"])
        left, right = number(line, "learning_rate"), number(other or {}, "learning_rate")
        # 0 is written where no prompt gave a gradient, so that there was no update.
        if left > 0 and right > 0 and not math.isclose(left, right, rel_tol=1e-6):
            yield (
                f"learning rate at iteration {line['iteration']}: {left:g} in {a.directory} but {right:g} in "
                f"{b.directory}; see learner.deepspeed and warmupSteps, and run one again with the other's"
            )
            break
    if last is None:
        return
    steps = [number(_line(run, last), "step") for run in (a, b)]
    if not math.isnan(sum(steps)) and steps[0] != steps[1]:
        yield (
            f"optimiser steps at iteration {last}: {steps[0]:,.0f} in {a.directory} but {steps[1]:,.0f} in "
            f"{b.directory}; more updates are no better allocation: run one again so that both take as many"
        )


def _token_differences(groups: Sequence[Group], tolerance: float) -> Iterator[str]:
    last = last_shared([run for group in groups for run in group.runs])
    means = token_means(groups)
    for group, mean in zip(groups[1:], means[1:], strict=True):
        fewer, more = sorted((means[0], mean))
        excess = more / fewer - 1 if fewer > 0 else 0.0
        if excess > tolerance:
            yield (
                f"generated tokens at iteration {last}, pilot included: {means[0]:,.0f} of {groups[0].label} "
                f"({groups[0].directories}) but {mean:,.0f} of {group.label} ({group.directories}), {excess:.0%} more "
                f"than the fewer where --token-tolerance allows {tolerance:.0%}; to compare them up to the tokens that "
                f"both spent, say --token-tolerance {math.ceil(100 * excess) / 100:g}"
            )


def _line(run: Run, iteration: int) -> Line:
    return next(line for line in run.trained if line["iteration"] == iteration)


def _differing(
    a: Run, b: Run, prefixes: tuple[str, ...], exempt: tuple[str, ...]
) -> Iterator[tuple[str, object, object]]:
    left, right = (_flat(run.job.spec.model_dump(mode="json", by_alias=True)) for run in (a, b))
    for key in sorted(left.keys() | right.keys()):
        if key.startswith(prefixes) and not key.startswith(exempt) and left.get(key) != right.get(key):
            yield key, left.get(key), right.get(key)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}" if path else key).items()}
