"""NetworkPolicies of a job: who may talk to which of its pods.

vLLM's development endpoints can replace the weights of a server, so only the job's learner may reach it (and the
monitoring namespace, where one is named: metrics and those endpoints share a port, and a policy knows no paths).
"""

from dataclasses import dataclass
from typing import Any

from gvm_api import names
from gvm_api.spec import GVMTrainingJob
from gvm_operator.labels import labels, metadata
from gvm_operator.site import PORT, WEIGHTS_PORT

Manifest = dict[str, Any]
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"  # Kubernetes sets it on every namespace


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """Namespaces beyond the job's own whose pods may reach it."""

    operator: str
    """Where the operator runs; it reads the learner's progress from the allocator."""
    monitoring: str = ""
    """Where Prometheus runs; empty lets none in."""


def policies(job: GVMTrainingJob, neighbours: Neighbours) -> list[Manifest]:
    """One policy a role; what is not allowed in is refused. Outgoing traffic is not limited (hubs, data)."""
    learner = {"podSelector": {"matchLabels": labels(job, names.LEARNER)}}
    rollout = {"podSelector": {"matchLabels": labels(job, names.ROLLOUT)}}
    operator = {
        **_of_namespace(neighbours.operator),
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "gvm-operator"}},
    }
    monitoring = [_of_namespace(neighbours.monitoring)] if neighbours.monitoring else []
    to_scrape = [{"from": monitoring, "ports": [_tcp(PORT)]}] if monitoring else []
    to_learner = [{"from": [learner]}, {"from": [rollout], "ports": [_tcp(WEIGHTS_PORT)]}]
    to_rollout = [{"from": [learner, *monitoring], "ports": [_tcp(PORT)]}]
    if job.spec.weight_sync.backend == "nccl":  # its connections go both ways, on ports of its choice
        to_learner = [{"from": [learner, rollout]}]
        to_rollout = [{"from": [learner, rollout]}, *to_rollout]
    return [
        _policy(job, names.ROLLOUT, to_rollout),
        _policy(job, names.ALLOCATOR, [{"from": [learner, operator, *monitoring], "ports": [_tcp(PORT)]}]),
        _policy(job, names.LEARNER, [*to_learner, *to_scrape]),
    ]


def _policy(job: GVMTrainingJob, role: str, ingress: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(job, names.child(job.metadata.name, role), role),
        "spec": {
            "podSelector": {"matchLabels": labels(job, role)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _of_namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}}


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
