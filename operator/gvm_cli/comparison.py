"""Accuracy curves of several runs, by allocation policy, and whether the runs may be compared at all.

Runs are comparable where they differ in nothing but allocation, seed, length and machines. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gvm_cli.recorded_run import Run
from gvm_cli.report_summary import total_samples

FloatArray = NDArray[np.float64]

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
_MAY_DIFFER = ("algorithm.seed", "algorithm.maxIterations")


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Accuracy on the first evaluation set, averaged over the runs of one policy; arrays of one evaluation each.

    `spread` is the sample standard deviation over runs, NaN for a single run.
    """

    policy: str
    num_runs: int
    iterations: tuple[int, ...]
    samples: FloatArray
    accuracy: FloatArray
    spread: FloatArray

    def samples_to_reach(self, accuracy: float) -> float:
        """Samples at the first evaluation that is at least as accurate; NaN where none is."""
        reached = np.flatnonzero(self.accuracy >= accuracy)
        return float(self.samples[reached[0]]) if reached.size else float("nan")


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise ValueError, a line a difference, unless the runs may be compared."""
    if len(runs) < 2:
        raise ValueError("RUN_DIRS: one run cannot be compared; give at least two, e.g. of uniform and of gvm")
    first = runs[0]
    problems = [
        problem
        for run in runs[1:]
        for problem in _differences(first, run, _MUST_MATCH, _MAY_DIFFER, "runs that differ in it do not compare")
    ]
    leaders: dict[str, Run] = {}
    taken: dict[tuple[str, int], Run] = {}
    for run in runs:
        policy, seed = run.job.spec.allocation.policy, run.job.spec.algorithm.seed
        leader = leaders.setdefault(policy, run)
        problems += _differences(leader, run, ("allocation.",), (), f"runs of policy {policy} are averaged")
        other = taken.setdefault((policy, seed), run)
        if other is not run:
            problems.append(
                f"spec.algorithm.seed: {other.directory} and {run.directory} both have policy {policy} and seed "
                f"{seed}; give each run its own seed"
            )
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))


def curves(runs: Sequence[Run]) -> tuple[Curve, ...]:
    """One curve a policy, over the iterations at which every run was evaluated.

    Raises:
        ValueError: there is no such iteration.
    """
    name = runs[0].evaluation_sets[0] if runs[0].evaluation_sets else None
    scored = [{line["iteration"]: line for line in run.evaluated if name in line["eval"]} for run in runs]
    shared = tuple(sorted(set.intersection(*(set(lines) for lines in scored))))
    if name is None or not shared:
        raise ValueError("RUN_DIRS: the runs share no evaluated iteration; set the same spec.evaluation in all")
    policies = dict.fromkeys(run.job.spec.allocation.policy for run in runs)
    result = []
    for policy in policies:
        group = [lines for run, lines in zip(runs, scored, strict=True) if run.job.spec.allocation.policy == policy]
        samples = np.array([[total_samples(lines[i]) for i in shared] for lines in group], dtype=float)
        accuracy = np.array([[lines[i]["eval"][name]["accuracy"] for i in shared] for lines in group])
        spread = accuracy.std(axis=0, ddof=1) if len(group) > 1 else np.full(len(shared), np.nan)
        result.append(
            Curve(
                policy=policy,
                num_runs=len(group),
                iterations=shared,
                samples=samples.mean(axis=0),
                accuracy=accuracy.mean(axis=0),
                spread=spread,
            )
        )
    return tuple(result)


def comparison_table(all_curves: Sequence[Curve]) -> list[tuple[str, ...]]:
    """Header and a row a policy. The last column is the cost of the baseline's best mean accuracy.

    The baseline is `uniform` where it is among them, else the first.
    """
    baseline = next((curve for curve in all_curves if curve.policy == "uniform"), all_curves[0])
    target = float(baseline.accuracy.max())
    needed = baseline.samples_to_reach(target)
    to_target = f"samples to {target:.1%} ({baseline.policy}'s best)"
    rows: list[tuple[str, ...]] = [("allocation", "seeds", "accuracy at the end", "best", "samples", to_target)]
    for curve in all_curves:
        reached = curve.samples_to_reach(target)
        factor = f" ({needed / reached:.1f}x fewer)" if reached and curve is not baseline else ""
        rows.append(
            (
                curve.policy,
                str(curve.num_runs),
                f"{curve.accuracy[-1]:.1%}" + ("" if curve.num_runs == 1 else f" ± {100 * curve.spread[-1]:.1f}"),
                f"{curve.accuracy.max():.1%}",
                f"{curve.samples[-1]:,.0f}",
                "not reached" if np.isnan(reached) else f"{reached:,.0f}{factor}",
            )
        )
    return rows


def _differences(a: Run, b: Run, prefixes: tuple[str, ...], exempt: tuple[str, ...], why: str) -> list[str]:
    left, right = (_flat(run.job.spec.model_dump(mode="json", by_alias=True)) for run in (a, b))
    return [
        f"spec.{key}: {left.get(key)!r} in {a.directory} but {right.get(key)!r} in {b.directory}; {why}"
        for key in sorted(left.keys() | right.keys())
        if key.startswith(prefixes) and not key.startswith(exempt) and left.get(key) != right.get(key)
    ]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}" if path else key).items()}
