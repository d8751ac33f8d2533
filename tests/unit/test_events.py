"""Events: one for each transition, none for a repeat, none for a stage on the way.

job            started
condition      becomes True · False with trouble · other trouble · the same again · a stage · resumed
end            complete · failed, which is a warning
gang           each restart
manifest       what Kubernetes wants · the same content, the same name
"""

from datetime import UTC, datetime, timedelta

import pytest

from gvm_api.status import Condition, JobStatus
from gvm_operator.events import Event, manifest, transitions

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
JOB = {
    "apiVersion": "gvm.rlhflow.dev/v1alpha1",
    "kind": "GVMTrainingJob",
    "metadata": {"name": "a", "namespace": "ml", "uid": "u-1"},
}


def having(*conditions: tuple[str, str, str, str], restarts: int = 0, started: bool = True) -> JobStatus:
    return JobStatus(
        start_time="2026-03-02T12:00:00Z" if started else None,
        restarts=restarts,
        conditions=tuple(Condition(type=t, status=s, reason=r, message=m) for t, s, r, m in conditions),  # type: ignore[arg-type]
    )


def told(before: JobStatus, after: JobStatus) -> list[tuple[str, str, str]]:
    return [(event.type, event.reason, event.message) for event in transitions(before, after)]


def test_the_start_is_told_once() -> None:
    assert told(having(started=False), having()) == [
        ("Normal", "Started", "servers, allocator and learner are being created")
    ]
    assert told(having(), having()) == []


def test_a_condition_that_becomes_true_is_told_by_its_type() -> None:
    before = having(("RolloutReady", "False", "Starting", "0/2"))
    after = having(("RolloutReady", "True", "Ready", "2/2 pods are ready"), ("Accepted", "True", "Accepted", ""))
    assert told(before, after) == [
        ("Normal", "RolloutReady", "2/2 pods are ready"),
        ("Normal", "Accepted", "Accepted"),
    ]


def test_the_same_again_is_not_told_even_if_the_message_differs() -> None:
    before = having(("RolloutReady", "True", "Ready", "2/2"), ("LearnerRunning", "True", "Running", "iteration 3"))
    after = having(("RolloutReady", "True", "Ready", "3/3"), ("LearnerRunning", "True", "Running", "iteration 4"))
    assert told(before, after) == []


def test_trouble_is_a_warning_and_so_is_the_next_one() -> None:
    starting = having(("RolloutReady", "False", "Starting", "0/1"))
    unplaced = having(("RolloutReady", "False", "Unschedulable", "no GPU"))
    crashing = having(("RolloutReady", "False", "CrashLoopBackOff", ""))
    assert told(starting, unplaced) == [("Warning", "Unschedulable", "no GPU")]
    assert told(unplaced, crashing) == [("Warning", "CrashLoopBackOff", "CrashLoopBackOff")]


@pytest.mark.parametrize("stage", ["Starting", "Stopping", "Suspending", "Suspended", "Finished"])
def test_a_stage_on_the_way_is_no_event(stage: str) -> None:
    before = having(("LearnerRunning", "True", "Running", ""))
    assert told(before, having(("LearnerRunning", "False", stage, "x"))) == []


def test_a_pause_and_its_end_are_told() -> None:
    suspending = having(("Suspended", "False", "Suspending", "2 pods are stopping"))
    suspended = having(("Suspended", "True", "Suspended", "all pods are gone"))
    resumed = having(("Suspended", "False", "Resumed", "the job was resumed"))
    assert told(having(), suspending) == []
    assert told(suspending, suspended) == [("Normal", "Suspended", "all pods are gone")]
    assert told(suspended, resumed) == [("Normal", "Resumed", "the job was resumed")]
    assert told(resumed, suspending) == []


def test_the_end_is_told_as_what_it_is() -> None:
    assert told(having(), having(("Complete", "True", "Complete", ""))) == [("Normal", "Complete", "Complete")]
    failed = having(("Failed", "True", "BackoffLimitExceeded", "out of memory (restarts: 3)"))
    assert told(having(), failed) == [("Warning", "BackoffLimitExceeded", "out of memory (restarts: 3)")]


def test_a_restart_is_told_with_its_number() -> None:
    assert told(having(restarts=1), having(restarts=2)) == [
        ("Normal", "GangRestarted", "restart 2 of the learner, from its checkpoint")
    ]
    assert told(having(restarts=2), having(restarts=2)) == []


def test_an_event_is_one_of_the_job_s_in_its_namespace() -> None:
    written = manifest(Event(type="Warning", reason="OOMKilled", message="pod x"), JOB, NOW)
    assert written["involvedObject"] == {
        "apiVersion": "gvm.rlhflow.dev/v1alpha1",
        "kind": "GVMTrainingJob",
        "name": "a",
        "namespace": "ml",
        "uid": "u-1",
    }
    assert written["metadata"]["namespace"] == "ml"
    assert (written["type"], written["reason"], written["message"]) == ("Warning", "OOMKilled", "pod x")
    assert written["firstTimestamp"] == written["lastTimestamp"] == "2026-03-02T12:00:00Z"
    assert (written["count"], written["source"]) == (1, {"component": "gvm-operator"})


def test_the_same_content_has_the_same_name_and_other_content_another() -> None:
    def name(
        kind: str = "Normal", reason: str = "Started", message: str = "m", uid: str = "u-1", later: int = 0
    ) -> str:
        job = {**JOB, "metadata": {**JOB["metadata"], "uid": uid}}  # type: ignore[dict-item]
        event = Event(type=kind, reason=reason, message=message)  # type: ignore[arg-type]
        return str(manifest(event, job, NOW + timedelta(seconds=later))["metadata"]["name"])

    assert name() == name(later=3600)
    others = [name(kind="Warning"), name(reason="Resumed"), name(message="n"), name(uid="u-2")]
    assert len({name(), *others}) == 5
    assert all(each.startswith("a.") and len(each) == 18 for each in others)


def test_a_long_message_is_cut_to_what_the_api_server_takes() -> None:
    written = manifest(Event(type="Normal", reason="r", message="x" * 5000), JOB, NOW)
    assert len(written["message"]) == 1024


def test_every_transition_of_a_whole_life_is_told_once(cluster, operator, make_job) -> None:
    written: list[str] = []
    cluster.apply(make_job())
    before = JobStatus()
    for turn in range(30):
        operator.refresh().look()
        after = operator.decision.status
        written += [event.reason for event in transitions(before, after)]
        before = after
        if turn in (5, 20):
            cluster.end("learner", 1 if turn == 5 else 0)
        cluster.step()
    assert written == [
        "Started",
        "Accepted",
        "RolloutReady",
        "AllocatorReady",
        "LearnerRunning",
        "Error",
        "GangRestarted",
        "LearnerRunning",
    ], "the learner's last word is still awaited"
    cluster.wait(30)
    operator.refresh().look()
    assert [event.reason for event in transitions(before, operator.decision.status)] == ["Complete"]
