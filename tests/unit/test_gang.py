"""The learner's gang, read off its Jobs.

no Job           starts attempt status.restarts · waits while pods of any gang are left
running          keeps its attempt, whatever older Jobs say
Complete         the end, and when it came
Failed           waits, then the next attempt · the limit · InvalidInput and StorageUnusable · the reason that is told
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gvm_api.load import validate_job
from gvm_api.status import JobStatus
from gvm_operator.gang import Gang, backoff, gang
from gvm_operator.observed import Observed

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
KILLED = {"exitCode": 137, "reason": "OOMKilled"}


def learner_job(attempt: int, condition: str = "", at: datetime = NOW) -> dict[str, Any]:
    status = {"type": condition, "status": "True", "reason": "BackoffLimitExceeded", "message": "of Kubernetes"}
    status["lastTransitionTime"] = at.isoformat().replace("+00:00", "Z")
    labels = {"gvm.rlhflow.dev/attempt": str(attempt)}
    return {
        "kind": "Job",
        "metadata": {"name": f"a-learner-{attempt}", "labels": labels},
        "status": {"conditions": [status] if condition else []},
    }


def read(make_job: Any, *jobs: Any, pods: tuple[Any, ...] = (), restarts: int = 0, limit: int = 3) -> Gang:
    job = make_job(runPolicy={"backoffLimit": limit})
    observed = Observed(job=job, children=jobs, pods=pods)
    return gang(observed, validate_job(job), JobStatus(restarts=restarts), NOW)


@pytest.mark.parametrize("restarts", [0, 2])
def test_without_a_job_the_attempt_that_was_written_down_starts(make_job, restarts: int) -> None:
    assert read(make_job, restarts=restarts) == Gang(state="run", attempt=restarts)


def test_a_gang_starts_when_the_last_pod_of_another_is_gone(make_job, make_pod) -> None:
    still = read(make_job, pods=(make_pod(attempt=5),))
    assert (still.state, still.reason, still.retry_at) == ("wait", "Stopping", None)
    assert read(make_job, pods=(make_pod(phase="Failed"), make_pod(phase="Succeeded"))).state == "run"
    assert read(make_job, pods=(make_pod("rollout"),)).state == "run", "servers are no gang"


def test_the_highest_attempt_is_the_one_that_counts(make_job) -> None:
    assert read(make_job, learner_job(0, "Failed"), learner_job(1)) == Gang(state="run", attempt=1)
    assert read(make_job, learner_job(2), learner_job(0, "Failed"), restarts=1).attempt == 2
    assert read(make_job, learner_job(0, "Complete"), restarts=1) == Gang(state="run", attempt=1)


def test_a_job_that_is_complete_tells_when_it_ended(make_job) -> None:
    ended = NOW - timedelta(seconds=5)
    assert read(make_job, learner_job(1, "Complete", ended)) == Gang(state="complete", attempt=1, ended_at=ended)


def test_a_condition_that_is_not_true_is_none(make_job) -> None:
    job = learner_job(0, "Failed")
    job["status"]["conditions"][0]["status"] = "False"
    assert read(make_job, job).state == "run"


@pytest.mark.parametrize(("seconds", "state", "attempt"), [(0, "wait", 1), (19, "wait", 1), (20, "run", 2)])
def test_a_gang_that_failed_the_second_time_waits_20_seconds(make_job, seconds: int, state: str, attempt: int) -> None:
    failed = learner_job(1, "Failed", NOW - timedelta(seconds=seconds))
    found = read(make_job, failed)
    assert (found.state, found.attempt) == (state, attempt)
    assert found.message == "of Kubernetes; the gang restarts from the last checkpoint"


def test_a_gang_whose_pods_are_still_stopping_is_not_replaced_yet(make_job, make_pod) -> None:
    failed = learner_job(0, "Failed", NOW - timedelta(hours=1))
    assert read(make_job, failed, pods=(make_pod(attempt=0),)).state == "wait"
    assert read(make_job, failed, pods=(make_pod(attempt=0, phase="Failed"),)).state == "run"


def test_the_reason_is_the_pod_s_own_where_there_is_one(make_job, make_pod) -> None:
    found = read(make_job, learner_job(0, "Failed"), pods=(make_pod(phase="Failed", terminated=KILLED),))
    assert (found.reason, found.message) == (
        "OOMKilled",
        "pod a-learner-x: OOMKilled, exit code 137; the gang restarts from the last checkpoint",
    )
    nothing_left = read(make_job, learner_job(0, "Failed"))
    assert (nothing_left.reason, nothing_left.message.split(";")[0]) == ("BackoffLimitExceeded", "of Kubernetes")


def test_a_pod_that_was_told_to_go_is_the_reason_only_where_no_other_failed(make_job, make_pod) -> None:
    failed = learner_job(0, "Failed")
    told = make_pod(name="0", phase="Failed", terminated={"exitCode": 143, "finishedAt": "2026-03-02T11:00:00Z"})
    told["metadata"]["deletionTimestamp"] = "2026-03-02T11:00:00Z"
    alone = read(make_job, failed, pods=(told,))
    assert alone.message.startswith("pod 0: Error, exit code 143; ")
    beside = read(make_job, failed, pods=(told, make_pod(name="1", phase="Failed", terminated=KILLED)))
    assert (beside.reason, beside.message.split(";")[0]) == ("OOMKilled", "pod 1: OOMKilled, exit code 137")


def test_a_failed_gang_waits_for_learners_of_an_earlier_job_too(make_job, make_pod) -> None:
    failed = learner_job(0, "Failed", NOW - timedelta(hours=1))
    old = make_pod(name="old", attempt=7)
    old["metadata"]["labels"]["gvm.rlhflow.dev/job-uid"] = "uid-of-the-old-job"
    assert read(make_job, failed, pods=(old,)).state == "wait"


@pytest.mark.parametrize(("attempt", "limit", "state"), [(0, 0, "failed"), (1, 2, "wait"), (2, 2, "failed")])
def test_the_limit_is_the_number_of_restarts(make_job, attempt: int, limit: int, state: str) -> None:
    found = read(make_job, learner_job(attempt, "Failed"), limit=limit)
    assert found.state == state
    if state == "failed":
        assert found.reason == "BackoffLimitExceeded"
        assert found.message == f"of Kubernetes (restarts: {attempt}, runPolicy.backoffLimit)"


@pytest.mark.parametrize("reason", ["InvalidInput", "StorageUnusable"])
def test_what_would_fail_again_is_the_end_at_once_and_only_if_it_is_this_attempt_s(
    make_job, make_pod, reason: str
) -> None:
    bad = {"exitCode": 2, "reason": "Error", "message": f"{reason}: d.jsonl is empty"}
    pods = (make_pod(phase="Failed", terminated=KILLED), make_pod(name="b", phase="Failed", terminated=bad))
    found = read(make_job, learner_job(0, "Failed"), pods=pods)
    assert (found.state, found.reason, found.message) == ("failed", reason, "d.jsonl is empty")
    assert read(make_job, learner_job(1, "Failed"), pods=pods).state == "wait"


def test_the_wait_doubles_from_10_seconds_up_to_5_minutes() -> None:
    assert [backoff(n).total_seconds() for n in range(7)] == [10, 20, 40, 80, 160, 300, 300]
    assert backoff(10_000).total_seconds() == 300
