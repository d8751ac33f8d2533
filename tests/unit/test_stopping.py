"""Stopping rules: what a rule draws, and how many samples it can come to."""

import pytest

from gvm_api.stopping import StoppingRule


def test_a_prompt_is_drawn_one_by_one_until_the_first_accepted_sample() -> None:
    rule = StoppingRule(first_round=1, limits=(8,))
    assert [rule.next_round(n, 0) for n in range(9)] == [1] * 8 + [0]
    assert rule.next_round(3, 1) == 0


def test_a_second_accepted_sample_has_a_limit_of_its_own() -> None:
    rule = StoppingRule(first_round=1, limits=(8, 4))
    assert [rule.next_round(n, 1) for n in (1, 3, 4)] == [1, 1, 0]


def test_a_prompt_may_be_left_out() -> None:
    assert StoppingRule(first_round=0, limits=(8,)).next_round(0, 0) == 0


@pytest.mark.parametrize(
    ("first", "size", "limits", "most"),
    [
        (1, 1, (8,), 8),
        (4, 4, (6,), 8),
        (4, 4, (8,), 8),
        (4, 4, (), 4),
        (0, 1, (8,), 0),
        (4, 4, (3,), 4),
        (2, 3, (6,), 8),
    ],
)
def test_the_most_that_a_rule_draws_is_whole_rounds(first: int, size: int, limits: tuple[int, ...], most: int) -> None:
    rule = StoppingRule(first_round=first, round_size=size, limits=limits)
    num_samples = 0
    while more := rule.next_round(num_samples, 0):
        num_samples += more
    assert rule.max_samples == num_samples == most
