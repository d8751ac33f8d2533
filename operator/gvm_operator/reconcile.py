"""desired(observed, now) → actions and status: the whole of what the operator decides, in one pure function.

Level-triggered: it looks at what is there, never at what happened, so that it may be called at any time, any number of
times, by any number of operators. Children are created where they are missing and then left alone, save what a user
may change while a job runs: an operator of a new version does not restart running jobs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import ValidationError

from gvm_api import names
from gvm_api.spec import GVMTrainingJob
from gvm_api.status import TERMINAL, JobStatus
from gvm_operator import conditions, job_status, manifests
from gvm_operator.acceptance import Acceptance, accept, closed_to_jobs
from gvm_operator.actions import Action, Create, Delete, DeleteJob, Patch
from gvm_operator.gang import Gang, backoff, gang
from gvm_operator.labels import UID_LABEL
from gvm_operator.network import Neighbours
from gvm_operator.observed import Manifest, Observed, is_active, is_finished, time_of
from gvm_operator.site import JOB_FILE_NAME, Images, cluster_site

_FINAL_PROGRESS = timedelta(seconds=30)
"""How long the end of a run waits for the learner's last word."""
_SETTLE = timedelta(seconds=2)
"""How soon to look again at pods that are stopping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """What of the operator's own configuration a job's children depend on."""

    images: Images
    neighbours: Neighbours | None
    """None makes no NetworkPolicies."""
    closed_namespace: str = ""
    """Where no job is run: the operator's own, whose service account and token key a job's pods could use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do, in this order; the status after it; when to look again unless something happens before."""

    actions: tuple[Action, ...] = ()
    status: JobStatus = field(default_factory=JobStatus)
    look_again_at: datetime | None = None
    wants_progress: bool = False
    """Whether the learner's progress should be read before the next look, however fresh it is."""


def desired(observed: Observed, now: datetime, *, operator: Operator, token: str) -> Decision:
    """What is to be done about one job.

    Args:
        observed: the job, its children and pods.
        now: aware, UTC.
        operator: images and network.
        token: the bearer token between the job's pods.
    """
    status = read_status(observed.job)
    if "deletionTimestamp" in observed.job["metadata"]:
        return Decision(status=status)  # garbage collection takes the children
    acceptance = accept(observed)
    if status.phase in TERMINAL:
        return _after_the_end(observed, status, acceptance.job, now)
    if observed.job["metadata"]["namespace"] == operator.closed_namespace:
        acceptance = closed_to_jobs(operator.closed_namespace)
    if acceptance.job is None:
        return Decision(status=job_status.refused(observed, status, acceptance, now))
    return _live(observed, status, acceptance, acceptance.job, now, operator, token)


def read_status(job: Manifest) -> JobStatus:
    """The status as it was written, without fields that another version wrote in its own way."""
    written = job.get("status") or {}
    try:
        return JobStatus.model_validate(written)
    except ValidationError as error:  # the rest counts all the same: what has ended must not begin again
        foreign = {fault["loc"][0] for fault in error.errors()}
        return JobStatus.model_validate({key: value for key, value in written.items() if key not in foreign})


def _live(
    observed: Observed,
    status: JobStatus,
    acceptance: Acceptance,
    job: GVMTrainingJob,
    now: datetime,
    operator: Operator,
    token: str,
) -> Decision:
    learner = gang(observed, job, status, now)
    if learner.state == "complete" and _is_last_word_due(observed, learner, now):
        return Decision(
            status=job_status.live(observed, status, acceptance, learner, now),
            look_again_at=now + _SETTLE,
            wants_progress=True,
        )
    if learner.state == "failed":
        return _end(observed, status, job, learner.reason, learner.message, now)
    if learner.state == "complete":
        return _end(observed, status, job, "Complete", job_status.result(observed, status), now)
    if (overdue := _overdue(job, status, now)) is not None:
        return _end(observed, status, job, *overdue, now)
    if job.spec.run_policy.suspend:
        return _suspend(observed, status, acceptance, now)
    running = job_status.live(observed, status, acceptance, learner, now)
    return Decision(
        actions=tuple(_missing(observed, job, learner, operator, token)),
        status=running,
        look_again_at=_next_deadline(job, running, learner, now),
    )


def _missing(observed: Observed, job: GVMTrainingJob, learner: Gang, operator: Operator, token: str) -> list[Action]:
    """What a running job lacks, and what its user changed."""
    site = cluster_site(job, operator.images, attempt=learner.attempt)
    wanted = manifests.children(job, site, token=token, attempt=learner.attempt, neighbours=operator.neighbours)
    actions: list[Action] = []
    for manifest in wanted:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind == "Job" and learner.state == "wait":
            continue
        if kind == "Secret":  # it cannot be looked for: it is made whenever a pod could miss it
            if _may_lack_secret(observed, job):
                actions.append(Create(manifest=_owned(manifest, observed.job, job)))
        elif (child := observed.child(kind, name)) is None:
            actions.append(Create(manifest=_owned(manifest, observed.job, job)))
        elif change := _change(child, manifest):
            actions.append(Patch(kind=kind, name=name, change=change))
    return actions


def _may_lack_secret(observed: Observed, job: GVMTrainingJob) -> bool:
    name = job.metadata.name
    if observed.child("Deployment", names.child(name, names.ALLOCATOR)) is None:
        return True
    reasons = [
        ((container.get("state") or {}).get("waiting") or {}).get("reason")
        for pod in observed.own_pods
        for container in (pod.get("status") or {}).get("containerStatuses") or ()
    ]
    return "CreateContainerConfigError" in reasons


def _owned(manifest: Manifest, job: Manifest, spec: GVMTrainingJob) -> Manifest:
    """The manifest as the job's own: it goes with the job."""
    if manifest["kind"] == "PersistentVolumeClaim" and spec.spec.storage.claim_retention_policy == "Retain":
        return manifest
    owner = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    owned = {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}
    if manifest["kind"] not in manifests.WORKLOADS:
        return owned
    template = manifest["spec"]["template"]
    labels = {**template["metadata"]["labels"], UID_LABEL: job["metadata"]["uid"]}
    template = {**template, "metadata": {**template["metadata"], "labels": labels}}
    return {**owned, "spec": {**manifest["spec"], "template": template}}


def _change(child: Manifest, wanted: Manifest) -> Manifest:
    """What a user changed that a child must follow: the number of servers, and the job file."""
    if child["kind"] == "Deployment" and child["spec"].get("replicas") != wanted["spec"]["replicas"]:
        return {"spec": {"replicas": wanted["spec"]["replicas"]}}
    if child["kind"] == "ConfigMap":
        file = wanted["data"][JOB_FILE_NAME]
        return {"data": {JOB_FILE_NAME: file}} if (child.get("data") or {}).get(JOB_FILE_NAME) != file else {}
    return {}


def _suspend(observed: Observed, status: JobStatus, acceptance: Acceptance, now: datetime) -> Decision:
    actions = _deletions(observed.of_kind("Deployment", "PodDisruptionBudget") + _unfinished_jobs(observed))
    is_settling = bool(actions) or any(is_active(pod) for pod in observed.pods)
    return Decision(
        actions=tuple(actions),
        status=job_status.suspended(observed, status, acceptance, now),
        look_again_at=now + _SETTLE if is_settling else None,
    )


def _end(
    observed: Observed, status: JobStatus, job: GVMTrainingJob, reason: str, message: str, now: datetime
) -> Decision:
    """The run is over, one way or the other."""
    return _after_the_end(observed, job_status.ended(observed, status, reason, message, now), job, now)


def _after_the_end(observed: Observed, status: JobStatus, job: GVMTrainingJob | None, now: datetime) -> Decision:
    """Terminal is sticky: nothing is created any more, only taken away."""
    if job is None:
        return Decision(status=job_status.counted(observed, status, now))
    policy, ended = job.spec.run_policy, time_of(status.completion_time) or now
    time_to_live = policy.ttl_seconds_after_finished
    expires_at = ended + timedelta(seconds=time_to_live) if time_to_live is not None else None
    if expires_at is not None and expires_at <= now:
        return Decision(actions=(DeleteJob(uid=observed.job["metadata"]["uid"]),), status=status)
    actions = _cleanup(observed, job)
    is_settling = bool(actions) or any(is_active(pod) for pod in observed.pods)
    waits = policy.cleanup_policy != "None" and is_settling
    return Decision(
        actions=tuple(actions),
        status=job_status.counted(observed, status, now, keeps_servers=policy.cleanup_policy == "None"),
        look_again_at=_earliest(now + _SETTLE if waits else None, expires_at),
    )


def _cleanup(observed: Observed, job: GVMTrainingJob) -> list[Action]:
    if job.spec.run_policy.cleanup_policy == "None":  # but a job that is over does not go on training
        return _deletions(_unfinished_jobs(observed))
    if job.spec.run_policy.cleanup_policy == "Running":  # finished learner pods stay, for whoever debugs
        return _deletions(observed.of_kind("Deployment", "PodDisruptionBudget") + _unfinished_jobs(observed))
    config = observed.of_kind("ConfigMap")
    # The Secret cannot be looked for: the ConfigMap, which goes last, tells whether it is gone.
    token = [Delete(kind="Secret", name=names.token_secret(job.metadata.name))] if config else []
    others = ("Deployment", "PodDisruptionBudget", "Job", "Service", "NetworkPolicy")
    return [*_deletions(observed.of_kind(*others)), *token, *_deletions(config)]


def _deletions(children: Sequence[Manifest]) -> list[Action]:
    return [
        Delete(kind=child["kind"], name=child["metadata"]["name"], uid=child["metadata"]["uid"])
        for child in children
        if "deletionTimestamp" not in child["metadata"]
    ]


def _unfinished_jobs(observed: Observed) -> list[Manifest]:
    return [job for job in observed.of_kind("Job") if not is_finished(job)]


def _is_last_word_due(observed: Observed, learner: Gang, now: datetime) -> bool:
    progress, ended = observed.word_of(learner.attempt), learner.ended_at or now
    return (progress is None or progress.phase != "Succeeded") and now - ended < _FINAL_PROGRESS


def _deadlines(job: GVMTrainingJob, status: JobStatus) -> list[tuple[datetime, str, str]]:
    """(when, reason, message) of each deadline that runs."""
    policy = job.spec.run_policy
    began = _earliest_of_run(status)
    # Of a job that is resumed right now, the old status still counts from before the pause.
    if began is None or policy.suspend or conditions.is_true(status.conditions, conditions.SUSPENDED):
        return []
    found: list[tuple[datetime, str, str]] = []
    if policy.active_deadline_seconds is not None:
        at = began + timedelta(seconds=policy.active_deadline_seconds)
        message = f"runPolicy.activeDeadlineSeconds of {policy.active_deadline_seconds} passed"
        found.append((at, "DeadlineExceeded", message))
    if not conditions.is_true(status.conditions, conditions.LEARNER_RUNNING):
        since = max(began, conditions.changed_at(status.conditions, conditions.LEARNER_RUNNING) or began)
        # What a gang waits before it is started again is not time to start in.
        waited = backoff(status.restarts - 1) if status.restarts else timedelta()
        at = since + waited + timedelta(seconds=policy.startup_deadline_seconds)
        why = f" ({status.message})" if status.message else ""
        message = f"runPolicy.startupDeadlineSeconds of {policy.startup_deadline_seconds} passed{why}"
        found.append((at, "StartupDeadlineExceeded", message))
    return found


def _earliest_of_run(status: JobStatus) -> datetime | None:
    """When the job began to run, or was resumed last; None before its first start."""
    began = time_of(status.start_time)
    if began is None:
        return None
    resumed = conditions.changed_at(status.conditions, conditions.SUSPENDED)
    return max(began, resumed) if resumed else began


def _overdue(job: GVMTrainingJob, status: JobStatus, now: datetime) -> tuple[str, str] | None:
    passed = [deadline for deadline in _deadlines(job, status) if deadline[0] <= now]
    return min(passed)[1:] if passed else None


def _next_deadline(job: GVMTrainingJob, status: JobStatus, learner: Gang, now: datetime) -> datetime | None:
    retry = max(learner.retry_at, now + _SETTLE) if learner.state == "wait" and learner.retry_at else None
    stopping = now + _SETTLE if learner.state == "wait" and learner.retry_at is None else None
    return _earliest(*(at for at, _, _ in _deadlines(job, status)), retry, stopping)


def _earliest(*moments: datetime | None) -> datetime | None:
    given = [moment for moment in moments if moment is not None]
    return min(given) if given else None
