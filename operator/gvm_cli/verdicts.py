"""What a comparison allows one to say, in sentences: no more than its intervals do. Pure."""

import math
from functools import partial

from gvm_cli.comparison import Comparison, Result
from gvm_cli.seed_statistics import Interval, Ratio

_ENOUGH_SEEDS = 5
"""Below it the bootstrap's interval is too narrow to call a ratio of tokens a difference."""


def verdicts(comparison: Comparison) -> list[str]:
    """What may be said, a sentence or two for each group but the baseline."""
    say = partial(_verdict, comparison)
    return [text for result in comparison.results if result.difference is not None for text in say(result)]


def _verdict(comparison: Comparison, result: Result) -> list[str]:
    assert result.difference is not None
    assert result.ratio is not None
    return [_about_accuracy(comparison, result, result.difference), _about_tokens(comparison, result, result.ratio)]


def _about_accuracy(comparison: Comparison, result: Result, difference: Interval) -> str:
    base, place = comparison.baseline, f"At {comparison.tokens:,.0f} generated tokens"
    points = f"{100 * difference.mean:+.1f} points"
    if math.isnan(difference.half):
        return (
            f"{place} {result.label} and {base} differ by {points}, but one seed tells no spread: "
            "this may be chance. Give each at least three seeds."
        )
    interval = (
        f"{points}, 95% interval {100 * (difference.mean - difference.half):+.1f} to "
        f"{100 * (difference.mean + difference.half):+.1f} ({_seeds(result)})"
    )
    if not difference.excludes_zero:
        return f"{place} {result.label} and {base} cannot be told apart: {interval}."
    return f"{place} {result.label} is {'more' if difference.mean > 0 else 'less'} accurate than {base}: {interval}."


def _about_tokens(comparison: Comparison, result: Result, ratio: Ratio) -> str:
    best = f"{comparison.baseline}'s best mean accuracy ({comparison.best:.1%})"
    if math.isnan(ratio.estimate):
        return f"{comparison.baseline} was best before training, so no tokens to its best are compared."
    if math.isnan(result.tokens_to_best) or ratio.estimate == 0:
        return f"{result.label} does not reach {best} within {comparison.tokens:,.0f} tokens."
    if math.isinf(ratio.estimate):
        return f"{result.label} is at {best} from the start, so no ratio of tokens is named."
    text = f"{result.label} reaches {best} with {times(ratio.estimate)} tokens"
    if ratio.num_seeds < 2:
        return f"{text}; one seed tells no spread."
    if math.isnan(ratio.low):
        return f"{text}; with some draws of the seeds {comparison.baseline} was best before training: no interval."
    spread = f"95% bootstrap interval {bounds(ratio.low, ratio.high)}"
    if ratio.low == 0:
        spread += f", none: not within {comparison.tokens:,.0f} tokens"
    if ratio.low <= 1 <= ratio.high:
        return f"{text}, but the spread over seeds includes no difference ({spread})."
    if ratio.num_seeds < _ENOUGH_SEEDS:
        return f"{text} ({spread}); with {ratio.num_seeds} seeds that interval is too narrow to rely upon."
    return f"{text} ({spread})."


def times(ratio: float) -> str:
    """A ratio as a reader says it: 2.0 times fewer, 1.3 times more."""
    return f"{ratio:.2f} times fewer" if ratio >= 1 else f"{1 / ratio:.2f} times more"


def bounds(low: float, high: float) -> str:
    """An interval of ratios; none stands for seeds that did not get there within the tokens compared."""
    return f"{_bound(low)} to {_bound(high)}"


def _bound(ratio: float) -> str:
    if math.isinf(ratio):
        return "from the start"
    return f"{ratio:.2f}" if ratio > 0 else "none"


def _seeds(result: Result) -> str:
    return f"{result.num_pairs} pairs of seeds" if result.num_pairs else "seeds not paired"
