"""What the operator tells Prometheus.

looks      success and error · causes · seconds
requests   by verb, resource and code
jobs       kind and phase · a change of either · gone with the job
"""

from typing import Any

import pytest
from prometheus_client import generate_latest

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
    metrics.job(A, job(), "Pending")
    metrics.job(A, job(), "Running")
    phases = series(metrics, "gvm_job_phase")
    assert len(phases) == 6
    assert [labels for labels, value in phases.items() if value] == ['{job="a",namespace="default",phase="Running"}']


def test_a_job_s_kind_is_in_its_labels_with_the_defaults_where_it_names_none(metrics: Metrics) -> None:
    metrics.job(A, job(), "Pending")
    assert series(metrics, "gvm_job_info") == {
        '{algorithm="raftpp",job="a",model="m",namespace="default",policy="gvm"}': 1
    }


def test_a_job_whose_kind_changes_has_one_series_still(metrics: Metrics) -> None:
    metrics.job(A, job(), "Pending")
    metrics.job(A, job(algorithm={"name": "grpo"}, allocation={"policy": "uniform"}), "Pending")
    assert series(metrics, "gvm_job_info") == {
        '{algorithm="grpo",job="a",model="m",namespace="default",policy="uniform"}': 1
    }
    assert len(series(metrics, "gvm_job_phase")) == 6


@pytest.mark.parametrize("spec", [{}, {"model": None, "algorithm": None}, {"model": {"path": 'a"b\\c\nd'}}])
def test_a_job_that_was_never_valid_has_series_as_well(metrics: Metrics, spec: dict[str, Any]) -> None:
    metrics.job(A, {"metadata": {"name": "a"}, "spec": spec}, "Pending")
    metrics.job(("default", "b"), {"metadata": {"name": "b"}}, "Pending")
    assert len(series(metrics, "gvm_job_info")) == 2


def test_the_series_of_a_job_that_is_gone_are_gone(metrics: Metrics) -> None:
    metrics.job(A, job(), "Running")
    metrics.job(("other", "a"), job(), "Running")
    metrics.forget(A)
    metrics.forget(A)
    metrics.forget(("default", "never heard of"))
    assert list(series(metrics, "gvm_job_info")) == [
        '{algorithm="raftpp",job="a",model="m",namespace="other",policy="gvm"}'
    ]
    assert all('namespace="other"' in labels for labels in series(metrics, "gvm_job_phase"))
    metrics.job(A, job(), "Pending")
    assert len(series(metrics, "gvm_job_info")) == 2


def test_two_operators_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.failed("Bug")
    assert series(other, "gvm_operator_reconcile_errors_total") == {}
