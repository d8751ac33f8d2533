"""Names: deterministic, DNS labels, and short enough for the longest name that is made of them."""

import pytest

from gvm_api import names

CHILDREN = [
    lambda job: names.child(job, names.ROLLOUT),
    lambda job: names.child(job, names.ALLOCATOR),
    lambda job: names.child(job, names.LEARNER),
    names.token_secret,
    names.config,
    names.run_claim,
]


def test_a_job_s_children_are_named_after_it() -> None:
    assert [name("arithmetic") for name in CHILDREN] == [
        "arithmetic-rollout",
        "arithmetic-allocator",
        "arithmetic-learner",
        "arithmetic-allocator-token",
        "arithmetic-job",
        "arithmetic-run",
    ]


def test_the_longest_job_name_leaves_room_for_every_suffix_within_63_characters() -> None:
    job = "j" * names.MAX_JOB_NAME
    names.check_job_name(job)
    assert all(len(name(job)) <= 63 for name in CHILDREN)
    # A Deployment's pods add a hash of ten and five characters, an Indexed Job's its index and five.
    assert len(f"{names.child(job, names.ALLOCATOR)}-0123456789-abcde") <= 63
    assert len(f"{names.child(job, names.LEARNER)}-1023-abcde") <= 63


def test_a_longer_name_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="has 37 characters; use at most 36"):
        names.check_job_name("j" * 37)


@pytest.mark.parametrize("name", ["a", "a1", "math-7b", "x--y"])
def test_a_dns_label_that_starts_with_a_letter_is_accepted(name: str) -> None:
    names.check_job_name(name)


@pytest.mark.parametrize("name", ["", "A", "7b", "-a", "a-", "a.b", "a_b", "a b", "ä", "a\n", "../x"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no DNS label; use lower-case letters, digits and '-', a letter first"):
        names.check_job_name(name)
