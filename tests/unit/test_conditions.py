"""Conditions: one a type, in a stable order, with times that move only when a status changes."""

from datetime import UTC, datetime, timedelta

from gvm_api.status import Condition
from gvm_operator.conditions import ROLLOUT_READY, SUSPENDED, Verdict, changed_at, find, is_true, updated

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def ready(status: bool, reason: str = "Starting", message: str = "") -> Verdict:
    return Verdict(type=ROLLOUT_READY, status=status, reason=reason, message=message)


def test_a_verdict_becomes_a_condition_of_the_generation_that_was_judged() -> None:
    (condition,) = updated((), [ready(False, "Starting", "0/1 pods")], now=NOW, generation=4)
    assert condition == Condition(
        type="RolloutReady",
        status="False",
        reason="Starting",
        message="0/1 pods",
        observed_generation=4,
        last_transition_time="2026-03-02T12:00:00Z",
    )


def test_the_transition_time_moves_when_the_status_changes_and_only_then() -> None:
    first = updated((), [ready(False)], now=NOW, generation=1)
    other_reason = updated(first, [ready(False, "Unschedulable", "no GPU")], now=LATER, generation=2)
    assert other_reason[0].last_transition_time == "2026-03-02T12:00:00Z"
    assert (other_reason[0].reason, other_reason[0].message, other_reason[0].observed_generation) == (
        "Unschedulable",
        "no GPU",
        2,
    )
    turned = updated(other_reason, [ready(True, "Ready")], now=LATER, generation=2)
    assert turned[0].last_transition_time == "2026-03-02T12:05:00Z"


def test_conditions_that_no_verdict_speaks_of_stay_as_they_are_in_their_order() -> None:
    before = updated((), [ready(False), Verdict(type=SUSPENDED, status=True, reason="x")], now=NOW, generation=1)
    foreign = Condition(type="QuotaReserved", status="Unknown", reason="Waiting")
    after = updated((foreign, *before), [ready(True, "Ready")], now=LATER, generation=2)
    assert [condition.type for condition in after] == ["QuotaReserved", "RolloutReady", "Suspended"]
    assert (after[0], after[2]) == (foreign, before[1])


def test_of_the_kubelet_s_two_messages_on_an_image_the_longer_one_stays() -> None:
    cause, back_off = "failed to resolve reference: manifest unknown", "Back-off pulling image"
    said = updated((), [ready(False, "ImagePullBackOff", back_off)], now=NOW, generation=1)
    said = updated(said, [ready(False, "ImagePullBackOff", cause)], now=NOW, generation=1)
    said = updated(said, [ready(False, "ImagePullBackOff", back_off)], now=NOW, generation=1)
    assert said[0].message == cause
    said = updated(said, [ready(False, "CrashLoopBackOff", "short")], now=NOW, generation=1)
    assert said[0].message == "short"


def test_a_condition_is_found_by_its_type() -> None:
    conditions = updated((), [ready(True), Verdict(type=SUSPENDED, status=False, reason="x")], now=NOW, generation=1)
    assert find(conditions, SUSPENDED) is conditions[1]
    assert find(conditions, "Failed") is None
    assert is_true(conditions, ROLLOUT_READY)
    assert not is_true(conditions, SUSPENDED)
    assert not is_true(conditions, "Failed")
    assert changed_at(conditions, SUSPENDED) == NOW
    assert changed_at(conditions, "Failed") is None
