"""What to try next when a condition of a job is bad. Pure: knows reasons, not the cluster."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from gvm_api import names
from gvm_api.status import TERMINAL, Condition, JobStatus
from gvm_operator import conditions, events
from gvm_operator.labels import JOB_LABEL, ROLE_LABEL
from gvm_operator.observed import time_of

Manifest = dict[str, Any]

_ROLES = {
    conditions.ROLLOUT_READY: names.ROLLOUT,
    conditions.ALLOCATOR_READY: names.ALLOCATOR,
    conditions.LEARNER_RUNNING: names.LEARNER,
}
_SLOW = timedelta(minutes=5)
_NEW = timedelta(seconds=30)

_IMAGE = (
    "check the name and tag of spec.{role}.image (or the operator's default image), and for a private registry that "
    "the Secret of imagePullSecrets is in namespace {namespace}; another image needs the job deleted and applied anew"
)
_LOGS = "kubectl logs -n {namespace} -l {selector} --tail=50{previous}"
_DESCRIBE = "kubectl describe pods -n {namespace} -l {selector}"
_OUT_OF_MEMORY = "it used more than spec.{role}.resources.limits.memory: raise it{smaller}"
_HINTS = {
    "InvalidSpec": "correct the field and apply the file again; gvm validate FILE checks it beforehand",
    "ImmutableField": "change it back and apply the file again; to train with it, use a job of another name",
    "OperatorNamespace": "kubectl delete gvmjob -n {namespace} {name}, and apply it in a namespace that the operator "
    "serves and does not live in",
    "Refused": "see the message: mostly a quota, an admission policy, or an object of that name that is not the job's",
    "ImagePullBackOff": _IMAGE,
    "InvalidImageName": _IMAGE,
    "ErrImageNeverPull": f"the image is not on the node, and imagePullPolicy is Never; {_IMAGE}",
    "Unschedulable": "free or add nodes, or lower spec.{role}.resources; check nodeSelector, tolerations, affinity: "
    + _DESCRIBE,
    "CrashLoopBackOff": f"see why it ends: {_LOGS}",
    "Error": f"see why it ended: {_LOGS}",
    "OOMKilled": _OUT_OF_MEMORY,
    "Evicted": "its node ran out of memory or disk: raise spec.{role}.resources.requests",
    "CreateContainerConfigError": "a Secret or ConfigMap that env or envFrom names is missing in namespace {namespace}:"
    " make it, and the pod starts",
    "InvalidInput": "correct what the message names, delete the job and apply it anew",
    "StorageUnusable": "make room on the volume of the run directory, or enlarge its claim; then delete the job and "
    "apply it anew under its name on the kept claim: it goes on from its last checkpoint",
    "NoVerdicts": "see the message for what the reward did, and try it on a completion: gvm score --help",
    "BackoffLimitExceeded": "the learner's last attempt: kubectl logs -n {namespace} job/{name}-learner-{restarts}",
    "DeadlineExceeded": "raise runPolicy.activeDeadlineSeconds; a job of the same name on a kept claim goes on",
    "ServersUnreachable": "the learner goes on by itself once a server answers; whether one is up or on its way: "
    + _DESCRIBE,
    "StartupDeadlineExceeded": "see the message for what did not start; raise runPolicy.startupDeadlineSeconds where "
    "nodes or a large model take longer",
}
_CLAIM = "its volume claim is not bound; see kubectl describe pvc -n {namespace}, and spec.storage.storageClassName"


def next_steps(job: Manifest, status: JobStatus, now: datetime) -> Iterator[str]:
    """What to try next, a line each; nothing where all is well.

    Args:
        job: the GVMTrainingJob.
        status: its status.
        now: aware, UTC.
    """
    metadata = job["metadata"]
    age = now - (time_of(metadata.get("creationTimestamp")) or now)
    if status.observed_generation is None and age > _NEW:
        yield (
            f"no operator has taken up the job: is one running that serves namespace {metadata['namespace']}? "
            "kubectl get pods -A -l app.kubernetes.io/name=gvm-operator"
        )
    found: dict[str, list[str]] = {}
    for condition in status.conditions:
        if hint := _hint(condition, status, now):
            found.setdefault(hint.format(**_words(condition, status, metadata)), []).append(condition.type)
    for hint, types in found.items():
        yield f"{', '.join(types)}: {hint}"


def is_bad(condition: Condition) -> bool:
    """Whether the operator warns of a condition: it is no stage on the way, and no success."""
    alone = JobStatus(conditions=(condition,))
    return any(event.type == "Warning" for event in events.transitions(JobStatus(), alone))


def _hint(condition: Condition, status: JobStatus, now: datetime) -> str:
    if is_bad(condition):
        if "PersistentVolumeClaim" in condition.message:
            return _CLAIM
        if "OOMKilled" in condition.message:  # behind a CrashLoopBackOff, or a gang that waits
            return _OUT_OF_MEMORY
        return _HINTS.get(condition.reason, f"see {_DESCRIBE}" if condition.type in _ROLES else "")
    since = time_of(condition.last_transition_time) or now
    is_slow = condition.reason == "Starting" and now - since > _SLOW and status.phase not in TERMINAL
    is_idle = condition.type in _ROLES and getattr(status, _ROLES[condition.type]).ready == 0
    return f"not one pod is ready; see kubectl get events -n {{namespace}} and {_LOGS}" if is_slow and is_idle else ""


def _words(condition: Condition, status: JobStatus, metadata: Manifest) -> dict[str, Any]:
    role = _ROLES.get(condition.type, "")
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "role": role or "ROLE",
        "restarts": status.restarts,
        "selector": f"{JOB_LABEL}={metadata['name']}" + (f",{ROLE_LABEL}={role}" if role else ""),
        # The learner's pods are not restarted in place: each attempt has pods of its own.
        "previous": " --previous" if condition.reason == "CrashLoopBackOff" else "",
        "smaller": ", or lower learner.microBatchTokens" if role == names.LEARNER else "",
    }
