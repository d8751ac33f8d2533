"""What the operator tells Prometheus, by the catalogue's names. Series of a job go with the job.

Knows a job's manifest and its status, not how either came about.
"""

from collections.abc import Iterator
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from gvm_api import names
from gvm_api.spec.roles import ResourcesSpec
from gvm_api.status import TERMINAL, JobStatus, Phase
from gvm_metrics.catalogue import OPERATOR
from gvm_metrics.registry import Registry
from gvm_operator import conditions
from gvm_operator.cache import JobKey
from gvm_operator.observed import Manifest, time_of

_PHASES: tuple[str, ...] = get_args(Phase)
_WAITING = ("Pending", "Starting")


class Series(NamedTuple):
    """One series of a job: the metric, and its labels in the catalogue's order."""

    name: str
    labels: tuple[str, ...]


class Metrics:
    """What the operator counts."""

    def __init__(self) -> None:
        self._all = Registry(OPERATOR)
        self._jobs: dict[JobKey, dict[Series, float]] = {}

    @property
    def registry(self) -> CollectorRegistry:
        """What is served under /metrics."""
        return self._all.prometheus

    def requested(self, verb: str, resource: str, code: int) -> None:
        """Count a request to the API."""
        self._all.add("gvm_operator_api_requests_total", 1, verb, resource, str(code))

    def reconciled(self, seconds: float, *, error: str = "") -> None:
        """Count a look at a job; `error` is its cause where it failed."""
        self._all.add("gvm_operator_reconcile_total", 1, "error" if error else "success")
        self._all.observe("gvm_operator_reconcile_duration_seconds", [seconds])
        if error:
            self.failed(error)

    def failed(self, reason: str) -> None:
        """Count a failure by its cause."""
        self._all.add("gvm_operator_reconcile_errors_total", 1, reason)

    def resynced(self, unix_seconds: float) -> None:
        """Say when all was last listed."""
        self._all.set("gvm_operator_last_resync_timestamp_seconds", unix_seconds)

    def due(self, num_jobs: int) -> None:
        """Say how many jobs wait for a look."""
        self._all.set("gvm_operator_queue_length", num_jobs)

    def job(self, key: JobKey, manifest: Manifest, status: JobStatus) -> None:
        """Publish a job's figures in place of those that it had."""
        series = dict(_series(key, manifest, status))
        for old in self._jobs.get(key, {}).keys() - series.keys():
            self._all.remove(old.name, *old.labels)
        for each, value in series.items():
            self._all.set(each.name, value, *each.labels)
        self._jobs[key] = series

    def forget(self, key: JobKey) -> None:
        """Drop the series of a job that is gone."""
        for each in self._jobs.pop(key, {}):
            self._all.remove(each.name, *each.labels)


def _series(key: JobKey, manifest: Manifest, status: JobStatus) -> Iterator[tuple[Series, float]]:
    """A job's series; what is not known has none."""
    yield Series("gvm_job_info", (*key, *_kind(manifest))), 1.0
    for phase in _PHASES:
        yield Series("gvm_job_phase", (*key, phase)), float(phase == status.phase)
    for name, value in (
        ("gvm_job_iteration", status.iteration),
        ("gvm_job_max_iterations", status.max_iterations),
        ("gvm_job_accuracy", status.accuracy),
        ("gvm_job_restarts", status.restarts),
        ("gvm_job_start_time_seconds", _unix(status.start_time)),
        ("gvm_job_completion_time_seconds", _unix(status.completion_time)),
        ("gvm_job_waiting_since_timestamp_seconds", _waiting_since(manifest, status)),
    ):
        if value is not None:
            yield Series(name, key), float(value)
    for role in names.ROLES:
        counts = getattr(status, role)
        desired = 0 if status.phase in (*TERMINAL, "Suspended") else counts.desired
        yield Series("gvm_job_pods_desired", (*key, role)), float(desired)
        yield Series("gvm_job_pods_ready", (*key, role)), float(counts.ready)
        yield Series("gvm_job_gpus", (*key, role)), float(desired * _gpus_per_pod(manifest, role))


def _kind(manifest: Manifest) -> tuple[str, str, str]:
    """Policy, algorithm and model, with the defaults where the job names none."""
    return (
        _text(manifest, "allocation", "policy") or "gvm",
        _text(manifest, "algorithm", "name") or "raftpp",
        _text(manifest, "model", "path"),
    )


def _text(manifest: Manifest, section: str, field: str) -> str:
    return str(((manifest.get("spec") or {}).get(section) or {}).get(field) or "")


def _gpus_per_pod(manifest: Manifest, role: str) -> int:
    """GPUs that a pod of the role asks for; 0 of a job that was never valid."""
    given = ((manifest.get("spec") or {}).get(role) or {}).get("resources") or {}
    try:
        return ResourcesSpec.model_validate(given).num_gpus
    except ValidationError:
        return 0


def _waiting_since(manifest: Manifest, status: JobStatus) -> float | None:
    """When a job that waits began to: when it was made, resumed, or its learner stopped running."""
    if status.phase not in _WAITING:
        return None
    turns = (
        conditions.changed_at(status.conditions, kind) for kind in (conditions.LEARNER_RUNNING, conditions.SUSPENDED)
    )
    moments = (time_of(manifest["metadata"].get("creationTimestamp")), *turns)
    return max((moment.timestamp() for moment in moments if moment), default=None)


def _unix(stamp: str | None) -> float | None:
    moment = time_of(stamp)
    return moment.timestamp() if moment else None
