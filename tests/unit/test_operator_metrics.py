"""What the operator tells Prometheus.

looks      success and error · causes · seconds
requests   by verb, resource and code
jobs       kind and phase · a change of either · figures of the status, those that are not known left out
           pods and GPUs by role, none once it is over · since when it waits · gone with the job
names      those of the catalogue, with its labels, all of them
"""

from datetime import datetime
from typing import Any

import pytest
from prometheus_client import generate_latest

from gvm_api.status import Condition, JobStatus, Phase, RoleStatus
from gvm_metrics.catalogue import OPERATOR
from gvm_operator.metrics import Metrics

A = ("default", "a")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def series(metrics: Metrics, name: str) -> dict[str, float]:
    """Labels and values of one metric, as Prometheus reads them."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    found = [line.removeprefix(name).rpartition(" ") for line in lines if line.split("{")[0].split(" ")[0] == name]
    return {labels: float(value) for labels, _, value in found}


def is_in(phase: Phase, **fields: Any) -> JobStatus:
    return JobStatus(phase=phase, **fields)


def job(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a"}, "spec": {"model": {"path": "m"}, **spec}}


def test_looks_are_counted_by_how_they_ended_and_failures_by_their_cause(metrics: Metrics) -> None:
    metrics.reconciled(0.002)
    metrics.reconciled(0.2)
    metrics.reconciled(0.5, error="Conflict")
    metrics.failed("Unreachable")
    assert series(metrics, "gvm_operator_reconcile_total") == {'{result="success"}': 2, '{result="error"}': 1}
    assert series(metrics, "gvm_operator_reconcile_errors_total") == {
        '{reason="Conflict"}': 1,
        '{reason="Unreachable"}': 1,
    }
    assert series(metrics, "gvm_operator_reconcile_duration_seconds_count") == {"": 3}
    buckets = series(metrics, "gvm_operator_reconcile_duration_seconds_bucket")
    assert (buckets['{le="0.003"}'], buckets['{le="0.3"}'], buckets['{le="+Inf"}']) == (1, 2, 3)


def test_requests_are_counted_by_verb_resource_and_code(metrics: Metrics) -> None:
    for code in (200, 200, 409, 0):
        metrics.requested("patch", "GVMTrainingJob/status", code)
    assert series(metrics, "gvm_operator_api_requests_total") == {
        '{code="200",resource="GVMTrainingJob/status",verb="patch"}': 2,
        '{code="409",resource="GVMTrainingJob/status",verb="patch"}': 1,
        '{code="0",resource="GVMTrainingJob/status",verb="patch"}': 1,
    }


def test_a_job_has_one_phase_at_a_time(metrics: Metrics) -> None:
    metrics.job(A, job(), is_in("Pending"))
    metrics.job(A, job(), is_in("Running"))
    phases = series(metrics, "gvm_job_phase")
    assert len(phases) == 6
    assert [labels for labels, value in phases.items() if value] == ['{job="a",namespace="default",phase="Running"}']


def test_a_job_s_kind_is_in_its_labels_with_the_defaults_where_it_names_none(metrics: Metrics) -> None:
    metrics.job(A, job(), is_in("Pending"))
    assert series(metrics, "gvm_job_info") == {
        '{algorithm="raftpp",job="a",model="m",namespace="default",policy="gvm"}': 1
    }


def test_a_job_whose_kind_changes_has_one_series_still(metrics: Metrics) -> None:
    metrics.job(A, job(), is_in("Pending"))
    metrics.job(A, job(algorithm={"name": "grpo"}, allocation={"policy": "uniform"}), is_in("Pending"))
    assert series(metrics, "gvm_job_info") == {
        '{algorithm="grpo",job="a",model="m",namespace="default",policy="uniform"}': 1
    }
    assert len(series(metrics, "gvm_job_phase")) == 6


@pytest.mark.parametrize("spec", [{}, {"model": None, "algorithm": None}, {"model": {"path": 'a"b\\c\nd'}}])
def test_a_job_that_was_never_valid_has_series_as_well(metrics: Metrics, spec: dict[str, Any]) -> None:
    metrics.job(A, {"metadata": {"name": "a"}, "spec": spec}, is_in("Pending"))
    metrics.job(("default", "b"), {"metadata": {"name": "b"}}, is_in("Pending"))
    assert len(series(metrics, "gvm_job_info")) == 2


def test_the_series_of_a_job_that_is_gone_are_gone(metrics: Metrics) -> None:
    metrics.job(A, job(), is_in("Running"))
    metrics.job(("other", "a"), job(), is_in("Running"))
    metrics.forget(A)
    metrics.forget(A)
    metrics.forget(("default", "never heard of"))
    assert list(series(metrics, "gvm_job_info")) == [
        '{algorithm="raftpp",job="a",model="m",namespace="other",policy="gvm"}'
    ]
    assert all('namespace="other"' in labels for labels in series(metrics, "gvm_job_phase"))
    metrics.job(A, job(), is_in("Pending"))
    assert len(series(metrics, "gvm_job_info")) == 2


CREATED = "2026-03-01T10:00:00Z"
WORK = job(
    rollout={"replicas": 2, "resources": {"limits": {"nvidia.com/gpu": 4}}},
    learner={"resources": {"limits": {"nvidia.com/gpu": "8", "cpu": 16}}},
)


def of_role(metrics: Metrics, name: str) -> dict[str, float]:
    roles = ("rollout", "allocator", "learner")
    found = series(metrics, name)
    return {role: found[f'{{job="a",namespace="default",role="{role}"}}'] for role in roles}


def test_the_status_s_figures_are_shown_and_unknown_ones_are_absent(metrics: Metrics) -> None:
    own = '{job="a",namespace="default"}'
    metrics.job(A, job(), is_in("Starting", max_iterations=20))
    absent = ("gvm_job_accuracy", "gvm_job_start_time_seconds", "gvm_job_completion_time_seconds")
    assert all(series(metrics, name) == {} for name in absent)
    assert series(metrics, "gvm_job_iteration") == {own: 0}
    status = is_in(
        "Succeeded", iteration=20, max_iterations=20, accuracy=0.0, restarts=2, start_time=CREATED,
        completion_time="2026-03-01T10:30:00Z",
    )  # fmt: skip
    metrics.job(A, job(), status)
    names = ("iteration", "max_iterations", "accuracy", "restarts", "start_time_seconds", "completion_time_seconds")
    found = [series(metrics, f"gvm_job_{name}") for name in names]
    assert found == [{own: v} for v in (20, 20, 0, 2, 1772359200, 1772361000)]


def test_a_figure_that_is_no_longer_known_goes(metrics: Metrics) -> None:
    metrics.job(A, job(), is_in("Running", accuracy=0.5))
    metrics.job(A, job(), is_in("Pending"))  # deleted and made anew between two looks
    assert series(metrics, "gvm_job_accuracy") == {}


def test_gpus_are_those_of_the_desired_pods_by_role(metrics: Metrics) -> None:
    roles = {
        "rollout": RoleStatus.of(desired=2, ready=1, failed=0),
        "allocator": RoleStatus.of(desired=1, ready=1, failed=0),
        "learner": RoleStatus.of(desired=1, ready=0, failed=0),
    }
    metrics.job(A, WORK, is_in("Starting", **roles))
    assert of_role(metrics, "gvm_job_pods_desired") == {"rollout": 2, "allocator": 1, "learner": 1}
    assert of_role(metrics, "gvm_job_pods_ready") == {"rollout": 1, "allocator": 1, "learner": 0}
    assert of_role(metrics, "gvm_job_gpus") == {"rollout": 8, "allocator": 0, "learner": 8}


@pytest.mark.parametrize("phase", ["Suspended", "Succeeded", "Failed"])
def test_a_job_that_is_over_or_paused_wants_no_pods_and_no_gpus(metrics: Metrics, phase: Phase) -> None:
    metrics.job(A, WORK, is_in(phase, rollout=RoleStatus.of(desired=2, ready=2, failed=0)))
    assert of_role(metrics, "gvm_job_pods_desired") == {"rollout": 0, "allocator": 0, "learner": 0}
    assert of_role(metrics, "gvm_job_gpus") == {"rollout": 0, "allocator": 0, "learner": 0}
    assert of_role(metrics, "gvm_job_pods_ready")["rollout"] == 2, "pods that are still there are shown"


@pytest.mark.parametrize("limits", [{"nvidia.com/gpu": "many"}, {"nvidia.com/gpu": -1}, "none"])
def test_gpus_of_a_job_that_was_never_valid_are_none(metrics: Metrics, limits: Any) -> None:
    refused = job(rollout={"resources": {"limits": limits}})
    metrics.job(A, refused, is_in("Pending", rollout=RoleStatus.of(desired=2, ready=0, failed=0)))
    assert of_role(metrics, "gvm_job_gpus")["rollout"] == 0


def condition(kind: str, status: Any, moment: str) -> Condition:
    return Condition(type=kind, status=status, reason="Any", last_transition_time=moment)


@pytest.mark.parametrize(
    ("phase", "turns", "since"),
    [
        ("Pending", [], "2026-03-01T10:00:00Z"),
        ("Starting", [("LearnerRunning", "False", "2026-03-01T12:00:00Z")], "2026-03-01T12:00:00Z"),
        (
            "Starting",  # paused at 11:00, resumed at 13:00
            [("LearnerRunning", "False", "2026-03-01T11:00:00Z"), ("Suspended", "False", "2026-03-01T13:00:00Z")],
            "2026-03-01T13:00:00Z",
        ),
        ("Running", [("LearnerRunning", "True", "2026-03-01T12:00:00Z")], None),
        ("Failed", [("LearnerRunning", "False", "2026-03-01T12:00:00Z")], None),
    ],
)
def test_a_job_waits_since_its_learner_stopped_or_it_was_made_or_resumed(
    metrics: Metrics, phase: Phase, turns: list[tuple[str, str, str]], since: str | None
) -> None:
    made = {**job(), "metadata": {"name": "a", "creationTimestamp": CREATED}}
    metrics.job(A, made, is_in(phase, conditions=tuple(condition(*turn) for turn in turns)))
    found = series(metrics, "gvm_job_waiting_since_timestamp_seconds")
    expected = {'{job="a",namespace="default"}': datetime.fromisoformat(since).timestamp()} if since else {}
    assert found == expected


def test_all_series_are_those_of_the_catalogue_with_its_labels(metrics: Metrics) -> None:
    made = {**WORK, "metadata": {"name": "a", "creationTimestamp": CREATED}}
    metrics.requested("get", "Pod", 200)
    metrics.reconciled(0.1, error="Conflict")
    metrics.resynced(1e9)
    metrics.due(3)
    metrics.job(A, made, is_in("Starting", accuracy=0.5, start_time=CREATED, completion_time=CREATED))
    shown = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type): {
            frozenset(sample.labels.keys() - {"le"}) for sample in family.samples
        }
        for family in metrics.registry.collect()
    }
    assert shown == {(family.name, family.kind): {frozenset(family.labels)} for family in OPERATOR}


def test_no_series_of_a_job_outlives_it(metrics: Metrics) -> None:
    metrics.job(A, WORK, is_in("Starting", accuracy=0.5, start_time=CREATED, completion_time=CREATED))
    metrics.forget(A)
    left = [sample for family in metrics.registry.collect() for sample in family.samples if "job" in sample.labels]
    assert left == []


def test_two_operators_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.failed("Bug")
    assert series(other, "gvm_operator_reconcile_errors_total") == {}
