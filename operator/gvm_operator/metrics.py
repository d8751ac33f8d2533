"""The operator's Prometheus metrics, in a registry of its own. Series of a job go with the job."""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gvm_api.status import Phase
from gvm_operator.cache import JobKey
from gvm_operator.observed import Manifest

_PHASES: tuple[str, ...] = get_args(Phase)


class Metrics:
    """What the operator counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(
            "gvm_operator_reconcile", "Looks at a job, by how they ended.", ["result"], registry=self.registry
        )
        self._errors = Counter(
            "gvm_operator_reconcile_errors", "Looks that failed, by cause.", ["reason"], registry=self.registry
        )
        self._seconds = Histogram(
            "gvm_operator_reconcile_duration_seconds",
            "Time of one look at a job.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self._requests = Counter(
            "gvm_operator_api_requests",
            "Requests to the Kubernetes API beside watches (code 0: no answer).",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.last_resync = Gauge(
            "gvm_operator_last_resync_timestamp_seconds", "When all was last listed.", registry=self.registry
        )
        self.queue_length = Gauge("gvm_operator_queue_length", "Jobs that are due for a look.", registry=self.registry)
        self._info = Gauge(
            "gvm_job_info",
            "1; the job's kind is in the labels.",
            ["namespace", "job", "policy", "algorithm", "model"],
            registry=self.registry,
        )
        self._phase = Gauge(
            "gvm_job_phase", "1 for the job's phase.", ["namespace", "job", "phase"], registry=self.registry
        )
        self._labels: dict[JobKey, tuple[str, str, str]] = {}

    def requested(self, verb: str, resource: str, code: int) -> None:
        """Count a request to the API."""
        self._requests.labels(verb, resource, str(code)).inc()

    def reconciled(self, seconds: float, *, error: str = "") -> None:
        """Count a look at a job; `error` is its cause where it failed."""
        self._reconciles.labels("error" if error else "success").inc()
        self._seconds.observe(seconds)
        if error:
            self.failed(error)

    def failed(self, reason: str) -> None:
        """Count a failure by its cause."""
        self._errors.labels(reason).inc()

    def job(self, key: JobKey, manifest: Manifest, phase: str) -> None:
        """Publish a job's kind and phase."""
        spec = manifest.get("spec") or {}
        labels = (
            str((spec.get("allocation") or {}).get("policy", "gvm")),
            str((spec.get("algorithm") or {}).get("name", "raftpp")),
            str((spec.get("model") or {}).get("path", "")),
        )
        if self._labels.get(key, labels) != labels:
            self.forget(key)
        self._labels[key] = labels
        self._info.labels(*key, *labels).set(1)
        for each in _PHASES:
            self._phase.labels(*key, each).set(float(each == phase))

    def forget(self, key: JobKey) -> None:
        """Drop the series of a job that is gone."""
        labels = self._labels.pop(key, None)
        if labels is None:
            return
        self._info.remove(*key, *labels)
        for each in _PHASES:
            self._phase.remove(*key, each)
