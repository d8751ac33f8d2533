"""A job's children as Kubernetes objects. Pure, deterministic, and the same for `gvm render` and the operator."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from gvm_api import names, yaml_format
from gvm_api.spec import API_VERSION, KIND, GVMTrainingJob, PodSpec
from gvm_operator import containers, network
from gvm_operator.labels import ATTEMPT_LABEL, labels, metadata
from gvm_operator.pods import pod_template
from gvm_operator.site import JOB_FILE_NAME, PORT, RENDEZVOUS_PORT, WEIGHTS_PORT, Site

Manifest = dict[str, Any]
_PORT = {"name": "http", "containerPort": PORT}
WORKLOADS = ("Deployment", "Job")
"""Kinds of children that have pods."""


def children(
    job: GVMTrainingJob, site: Site, *, token: str, attempt: int = 0, neighbours: network.Neighbours | None = None
) -> list[Manifest]:
    """All children of a job, in the order in which they are created: what others need comes first.

    Args:
        job: the validated job.
        site: addresses, paths and images.
        token: bearer token between the job's own pods.
        attempt: number of the learner's gang, from 0.
        neighbours: whose traffic the NetworkPolicies let in; None makes no NetworkPolicies.
    """
    claim = [] if job.spec.storage.existing_claim or job.spec.storage.volume else [_claim(job)]
    policies = network.policies(job, neighbours) if neighbours is not None else []
    return [
        _config(job),
        _secret(job, token),
        *claim,
        *policies,
        *_disruption_budgets(job),
        _service(job, names.ALLOCATOR, {"http": PORT}, headless=False),
        # Headless: the learner needs every server's own address, to sync weights into each.
        _service(job, names.ROLLOUT, {"http": PORT}, headless=True),
        _service(job, names.LEARNER, {"rendezvous": RENDEZVOUS_PORT, "weights": WEIGHTS_PORT}, headless=True),
        _deployment(job, names.ALLOCATOR, 1, job.spec.allocator, containers.allocator(job, site), site),
        _deployment(
            job, names.ROLLOUT, job.spec.rollout.replicas, job.spec.rollout, containers.rollout(job, site), site
        ),
        learner_job(job, site, attempt),
    ]


def main_containers(children: Sequence[Manifest]) -> dict[str, Manifest]:
    """The main container of each role among `children`, the user's podTemplate laid over it."""
    workloads = [child for child in children if child["kind"] in WORKLOADS]
    return {
        child["metadata"]["labels"]["app.kubernetes.io/component"]: child["spec"]["template"]["spec"]["containers"][0]
        for child in workloads
    }


def job_file(job: GVMTrainingJob) -> str:
    """The job as the text of a job file, with every default written out as the API server does."""
    return _job_file(job.metadata.name, job.metadata.namespace, job.spec.model_dump_json(exclude_none=True))


@lru_cache(maxsize=1024)  # every look at a job compares it, and YAML takes its time
def _job_file(name: str, namespace: str, spec: str) -> str:
    metadata = {"name": name, "namespace": namespace}
    return yaml_format.dump({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": json.loads(spec)})


def _config(job: GVMTrainingJob) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, names.config(job.metadata.name), "config"),
        "data": {JOB_FILE_NAME: job_file(job)},
    }


def _secret(job: GVMTrainingJob, token: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(job, names.token_secret(job.metadata.name), names.ALLOCATOR),
        "type": "Opaque",
        "stringData": {containers.TOKEN_KEY: token},
    }


def _claim(job: GVMTrainingJob) -> Manifest:
    storage = job.spec.storage
    spec: Manifest = {
        "accessModes": list(storage.access_modes),
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(job, names.run_claim(job.metadata.name), "storage"),
        "spec": spec,
    }


def _disruption_budgets(job: GVMTrainingJob) -> list[Manifest]:
    """A PodDisruptionBudget for each role that asks for one."""
    roles = {names.ROLLOUT: job.spec.rollout, names.ALLOCATOR: job.spec.allocator, names.LEARNER: job.spec.learner}
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(job, names.child(job.metadata.name, role), role),
            "spec": {"maxUnavailable": pods.max_unavailable, "selector": {"matchLabels": labels(job, role)}},
        }
        for role, pods in roles.items()
        if pods.max_unavailable is not None
    ]


def _service(job: GVMTrainingJob, role: str, ports: dict[str, int], *, headless: bool) -> Manifest:
    spec: Manifest = {
        "selector": labels(job, role),
        "ports": [{"name": name, "port": port, "targetPort": port} for name, port in ports.items()],
    }
    if headless:
        spec["clusterIP"] = "None"
        # A gang finds its members before any of them is ready.
        spec["publishNotReadyAddresses"] = role == names.LEARNER
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, names.child(job.metadata.name, role), role),
        "spec": spec,
    }


def _deployment(
    job: GVMTrainingJob, role: str, replicas: int, pods: PodSpec, container: Manifest, site: Site
) -> Manifest:
    served = {**container, "ports": [_PORT], **_probes(job, role)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(job, names.child(job.metadata.name, role), role),
        "spec": {
            "replicas": replicas,
            # A second allocator would open the same database, a further server would ask for GPUs that are taken.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels(job, role)},
            "template": pod_template(job, role, pods, served, site),
        },
    }


def _probes(job: GVMTrainingJob, role: str) -> Manifest:
    ready, alive = ("/readyz", "/healthz") if role == names.ALLOCATOR else ("/health", "/health")
    return {
        # Loading a large model takes its time; the startup deadline bounds it.
        "startupProbe": {
            **_get(ready, period_seconds=5),
            "failureThreshold": max(1, job.spec.run_policy.startup_deadline_seconds // 5),
        },
        "readinessProbe": _get(ready, period_seconds=5),
        "livenessProbe": {**_get(alive, period_seconds=20), "failureThreshold": 6},
    }


def _get(path: str, *, period_seconds: int) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": period_seconds, "timeoutSeconds": 5}


def learner_job(job: GVMTrainingJob, site: Site, attempt: int) -> Manifest:
    """One attempt of the learner's gang."""
    learner = job.spec.learner
    name = names.learner_attempt(job.metadata.name, attempt)
    own = metadata(job, name, names.LEARNER)
    own["labels"] = {**own["labels"], ATTEMPT_LABEL: str(attempt)}
    container = {**containers.learner(job, site), "ports": [_PORT]}
    template = pod_template(job, names.LEARNER, learner, container, site, gang=name)
    template["metadata"]["labels"] = {**template["metadata"]["labels"], ATTEMPT_LABEL: str(attempt)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": own,
        "spec": {
            "completionMode": "Indexed",
            "completions": learner.replicas,
            "parallelism": learner.replicas,
            "backoffLimit": 0,  # one failure restarts the whole gang, and that is the operator's to do
            "template": template,
        },
    }
