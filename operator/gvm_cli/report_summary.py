"""The numbers of a run in words: what it achieved and what it cost. Pure; knows neither HTML nor plots."""

import math
from collections.abc import Sequence

from gvm_cli.recorded_run import Line, Run, number

Table = list[tuple[str, ...]]


def headline(run: Run) -> str:
    """The run in one sentence."""
    seconds = number(run.lines[-1], "elapsed_seconds")
    num_iterations = len(run.trained)
    cost = f"{num_iterations:,} iteration{'' if num_iterations == 1 else 's'}, {total_samples(run.lines[-1]):,} samples"
    if not math.isnan(seconds):
        cost += f" and {duration(seconds)}"
    if not run.evaluated:
        return f"{cost}. No accuracy was measured; add spec.evaluation.datasets to see it."
    name = run.evaluation_sets[0]
    first, last = (line["eval"][name]["accuracy"] for line in (run.evaluated[0], run.evaluated[-1]))
    if len(run.evaluated) == 1:
        return f"Accuracy on {name}: {first:.1%}, measured once. {cost}."
    return f"Accuracy on {name} went from {first:.1%} to {last:.1%} in {cost}."


def accuracy_table(run: Run) -> Table:
    """Header and a row for each evaluation set: before, after, best. ± is one standard error over prompts."""
    table: Table = [("set", "before", "after", "change", "best", "at iteration", "prompts", "samples each")]
    for name in run.evaluation_sets:
        lines = [line for line in run.evaluated if name in line["eval"]]
        first, last = lines[0]["eval"][name], lines[-1]["eval"][name]
        best = max(lines, key=lambda line: float(line["eval"][name]["accuracy"]))
        table.append(
            (
                name,
                _accuracy(first["accuracy"], first["num_prompts"]),
                _accuracy(last["accuracy"], last["num_prompts"]),
                f"{100 * (last['accuracy'] - first['accuracy']):+.1f} points",
                f"{best['eval'][name]['accuracy']:.1%}",
                f"{best['iteration']:,}",
                f"{last['num_prompts']:,}",
                f"{last['samples']:,}",
            )
        )
    return table


def cost_table(run: Run) -> Table:
    """Rows (name, value, remark) of samples, tokens, time and variance. Everything counts the pilot."""
    lines, last = run.trained, run.lines[-1]
    if not lines:
        return []
    pilot, main = _sum(lines, "num_samples_pilot"), _sum(lines, "num_samples_main")
    pilot_tokens, main_tokens = _sum(lines, "tokens_generated_pilot"), _sum(lines, "tokens_generated_main")
    rates = [rate for rate in (number(line, "accept_rate") for line in lines) if not math.isnan(rate)]
    return [
        ("iterations", f"{len(lines):,}", f"of {run.job.spec.algorithm.max_iterations:,}"),
        ("samples", f"{total_samples(last):,}", f"pilot {_share(pilot, pilot + main)}"),
        (
            "tokens generated",
            f"{pilot_tokens + main_tokens:,.0f}",
            f"pilot {_share(pilot_tokens, pilot_tokens + main_tokens)}",
        ),
        ("prompt tokens", f"{_sum(lines, 'tokens_prompt'):,.0f}", ""),
        ("wall time", duration(number(last, "elapsed_seconds")), ""),
        ("accept rate", f"{rates[0]:.1%} to {rates[-1]:.1%}" if rates else "not measured", "first, last iteration"),
        _variance(lines, "predicted"),
        _variance(lines, "realised"),
        (
            "samples not judged",
            f"{_sum(lines, 'num_timeouts') + _sum(lines, 'num_errors'):,.0f}",
            f"verifier timeouts {_sum(lines, 'num_timeouts'):,.0f}, errors {_sum(lines, 'num_errors'):,.0f}",
        ),
    ]


def stage_table(run: Run) -> Table:
    """Header and a row for each stage of the loop: seconds and share of the iterations' time."""
    stages = stage_seconds(run.trained)
    total = sum(number(line["seconds"], "total") for line in run.trained)
    rows = [
        (name.replace("_", " "), duration(sum(seconds)), f"{sum(seconds) / total:.1%}")
        for name, seconds in stages.items()
    ]
    return [("stage", "time", "share"), *rows] if rows and total else []


def stage_seconds(lines: Sequence[Line]) -> dict[str, list[float]]:
    """Seconds of each stage, one entry a line; `other` is what no stage accounts for."""
    names = dict.fromkeys(name for line in lines for name in line["seconds"] if name != "total")
    stages = {name: [line["seconds"].get(name) or 0.0 for line in lines] for name in names}
    accounted = [sum(seconds) for seconds in zip(*stages.values(), strict=True)]
    totals = [line["seconds"].get("total") or 0.0 for line in lines]
    other = [max(0.0, total - known) for total, known in zip(totals, accounted, strict=False)]
    if sum(other) > 0.005 * sum(totals):
        stages["other"] = other
    return {name: seconds for name, seconds in stages.items() if sum(seconds) > 0}


def total_samples(line: Line) -> int:
    """Samples up to and including a line, the pilot's too; 0 before training."""
    return int(line.get("samples_total") or 0)


def variance_ratio(lines: Sequence[Line], which: str) -> tuple[float, int]:
    """Variance over the uniform plan's, of sums over iterations (NaN: none measured), and how many they are."""
    keys = (f"{which}_variance", f"{which}_variance_uniform")
    pairs = [(number(line, keys[0]), number(line, keys[1])) for line in lines]
    known = [(value, uniform) for value, uniform in pairs if math.isfinite(value) and uniform > 0]
    if not known:
        return math.nan, 0
    return sum(value for value, _ in known) / sum(uniform for _, uniform in known), len(known)


def duration(seconds: float) -> str:
    """Seconds as a person writes them: 8.2 s, 3 min 20 s, 2 h 05 min."""
    if math.isnan(seconds):
        return "not measured"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _variance(lines: Sequence[Line], which: str) -> tuple[str, str, str]:
    ratio, num_iterations = variance_ratio(lines, which)
    if not num_iterations:
        return f"variance, {which}", "not measured", ""
    return f"variance, {which}", f"{ratio:.2f} of uniform's", f"sums over {num_iterations:,} iterations"


def _accuracy(accuracy: float, num_prompts: int) -> str:
    error = math.sqrt(accuracy * (1 - accuracy) / num_prompts) if num_prompts else math.nan
    return f"{accuracy:.1%} ± {100 * error:.1f}"


def _sum(lines: Sequence[Line], key: str) -> float:
    return sum(line.get(key) or 0 for line in lines)


def _share(part: float, whole: float) -> str:
    return f"{part:,.0f} ({part / whole:.0%})" if whole else "0"
