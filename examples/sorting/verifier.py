"""Judges a sorting by swaps: the reward of the sorting example.

Owns what a right derivation is. It knows neither models nor how prompts are drawn. A verifier's worker imports it as
`examples.sorting.verifier`, so it loads next to nothing.
"""

from itertools import pairwise

SEPARATOR = ">"


def verify(completion: str, answer: str) -> bool:
    """Whether `completion` sorts `answer`, a list of distinct digits, by at most len(answer) - 1 swaps.

    The completion is the list after each swap, the last one in ascending order. Any other text is wrong, never an
    error.

    Example:
        verify("132>123", "312") is True
    """
    lists = [answer, *completion.split(SEPARATOR)]
    if len(lists) > len(answer) or lists[-1] != "".join(sorted(answer)):
        return False
    return all(_is_one_swap(before, after) for before, after in pairwise(lists))


def _is_one_swap(before: str, after: str) -> bool:
    """Whether `after` is `before` with the entries at two positions exchanged."""
    if len(before) != len(after):
        return False
    changed = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
    return len(changed) == 2 and changed[0] == changed[1][::-1]
