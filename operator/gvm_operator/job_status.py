"""The job's status: phases, conditions, counts and the learner's figures, from what is observed. Pure."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gvm_api import names
from gvm_api.load import one_line
from gvm_api.spec import GVMTrainingJob
from gvm_api.status import TERMINAL, JobStatus, Phase, RoleStatus
from gvm_api.summary import percent
from gvm_api.wire import Progress
from gvm_operator import conditions
from gvm_operator.acceptance import Acceptance
from gvm_operator.actions import Refusal
from gvm_operator.conditions import Verdict
from gvm_operator.gang import Gang
from gvm_operator.observed import (
    Manifest,
    Observed,
    checkpoint_folder,
    is_active,
    is_placed,
    is_ready,
    phase_of,
    role_of,
    stamp,
)
from gvm_operator.reasons import trouble, uncreated

_REWARD = conditions.REWARD_JUDGING
_MANY_UNJUDGED = 0.05
"""A share of samples without a verdict above which that is trouble; single ones are usual. As of the alert."""
_FIGURES = (
    "iteration",
    "step",
    "accuracy",
    "accept_rate",
    "samples_per_second",
    "realised_variance_reduction",
)


def refused(observed: Observed, status: JobStatus, acceptance: Acceptance, now: datetime) -> JobStatus:
    """A job that cannot be run at all."""
    return _with(observed, status, [_accepted(acceptance)], now, phase="Pending", message=acceptance.message)


def live(observed: Observed, status: JobStatus, acceptance: Acceptance, learner: Gang, now: datetime) -> JobStatus:
    """A job that runs, or is on its way there."""
    job = acceptance.job
    assert job is not None
    roles = _roles(observed, job, learner.attempt)
    verdicts = [
        _accepted(acceptance),
        _unreachable(observed, learner)
        or _servers(observed, conditions.ROLLOUT_READY, names.ROLLOUT, roles[names.ROLLOUT]),
        _servers(observed, conditions.ALLOCATOR_READY, names.ALLOCATOR, roles[names.ALLOCATOR]),
        _learner(observed, status, learner, roles),
        *_resumed(status),
        *_reward(observed.progress, status),
    ]
    is_running = verdicts[3].status or learner.state == "complete"  # its last word is being read
    placed = any(is_placed(pod) for role in names.ROLES for pod in observed.pods_of(role) if is_active(pod))
    phase: Phase = "Running" if is_running else "Starting" if placed else "Pending"
    worries = [verdict.type for verdict in verdicts if verdict.is_trouble]
    reported = _with(
        observed,
        status,
        verdicts,
        now,
        phase=phase,
        start_time=status.start_time or stamp(now),
        restarts=learner.attempt,
        max_iterations=job.spec.algorithm.max_iterations,
        checkpoints=checkpoint_folder(job.metadata.name, job.spec.storage.model_dump(mode="json")),
        **roles,
        **_figures(observed.word_of(learner.attempt)),
    )
    foremost = conditions.find(reported.conditions, worries[0] if worries else conditions.LEARNER_RUNNING)
    return reported.model_copy(update={"message": foremost.message if foremost else ""})


def suspended(observed: Observed, status: JobStatus, acceptance: Acceptance, now: datetime) -> JobStatus:
    """A job that is told to pause: Suspended once the last of its pods is gone."""
    num_left = sum(is_active(pod) for pod in observed.pods)
    reason, message = (
        ("Suspending", f"{num_left} pods are stopping") if num_left else ("Suspended", "all pods are gone")
    )
    verdicts = [
        _accepted(acceptance),
        *_not_running("Suspended"),
        Verdict(type=conditions.SUSPENDED, status=not num_left, reason=reason, message=message),
    ]
    phase: Phase = status.phase if num_left else "Suspended"
    roles = _none_desired(observed)
    restarts = _attempt(observed, status)
    return _with(observed, status, verdicts, now, phase=phase, restarts=restarts, message=message, **roles)


def ended(observed: Observed, status: JobStatus, reason: str, message: str, now: datetime) -> JobStatus:
    """A job whose run is over; `reason` is Complete, or why it failed."""
    is_complete, attempt = reason == "Complete", _attempt(observed, status)
    end = Verdict(
        type=conditions.COMPLETE if is_complete else conditions.FAILED, status=True, reason=reason, message=message
    )
    return _with(
        observed,
        status,
        [*_not_running("Finished"), end],
        now,
        phase="Succeeded" if is_complete else "Failed",
        start_time=status.start_time or stamp(now),
        completion_time=stamp(now),
        restarts=attempt,
        message=message,
        **_figures(observed.word_of(attempt)),
    )


def result(observed: Observed, status: JobStatus) -> str:
    """What came of a run that is complete, in one line."""
    said = status.model_copy(update=_figures(observed.word_of(_attempt(observed, status))))
    accuracy = "" if said.accuracy is None else f", accuracy {said.accuracy:.3f}"
    return f"{said.iteration} iterations{accuracy}"


def counted(observed: Observed, status: JobStatus, now: datetime, *, keeps_servers: bool = False) -> JobStatus:
    """A finished job, its pods counted anew as they go: none is desired but servers that its clean-up policy keeps."""
    roles = _none_desired(observed)
    if keeps_servers:
        for child in observed.of_kind("Deployment"):
            role = role_of(child)
            roles[role] = _count(observed.pods_of(role), child["spec"].get("replicas", 1))
    return _with(observed, status, [], now, **roles)


def with_refusals(
    before: JobStatus, status: JobStatus, refusals: Sequence[Refusal], now: datetime, generation: int | None
) -> JobStatus:
    """The status after the API server did not allow some actions: the user must hear of it.

    `before` is what stood in the cluster: a refusal that lasts is no new transition.
    """
    if not refusals or status.phase in TERMINAL:
        return status
    verdict = Verdict(type=conditions.ACCEPTED, status=False, reason="Refused", message=refusals[0].message)
    stood = conditions.find(before.conditions, conditions.ACCEPTED)
    kept = [stood if stood and each.type == conditions.ACCEPTED else each for each in status.conditions]
    updated = conditions.updated(kept, [verdict], now=now, generation=generation)
    return status.model_copy(update={"conditions": updated, "message": verdict.message})


def _with(
    observed: Observed, status: JobStatus, verdicts: Sequence[Verdict], now: datetime, **changes: Any
) -> JobStatus:
    generation = observed.job["metadata"].get("generation")
    updated = conditions.updated(status.conditions, verdicts, now=now, generation=generation)
    return status.model_copy(update={"conditions": updated, "observed_generation": generation, **changes})


def _accepted(acceptance: Acceptance) -> Verdict:
    return Verdict(
        type=conditions.ACCEPTED,
        status=acceptance.reason == "Accepted",
        reason=acceptance.reason,
        message=acceptance.message,
        is_trouble=acceptance.reason != "Accepted",
    )


def _servers(observed: Observed, condition: str, role: str, counts: RoleStatus) -> Verdict:
    message = f"{counts.summary} pods are ready"
    if counts.ready >= counts.desired:
        return Verdict(type=condition, status=True, reason="Ready", message=message)
    pods = [pod for pod in observed.pods_of(role) if not is_ready(pod)]
    if found := trouble(pods) or uncreated(observed.of_role("Deployment", role)):
        return Verdict(type=condition, status=False, reason=found.reason, message=found.message, is_trouble=True)
    return Verdict(type=condition, status=False, reason="Starting", message=message)


def _unreachable(observed: Observed, learner: Gang) -> Verdict | None:
    """What the learner waits for, where it says so and Kubernetes sees no trouble with the servers' pods."""
    progress = observed.progress
    pods = [pod for pod in observed.pods_of(names.ROLLOUT) if not is_ready(pod)]
    if progress is None or progress.waiting is None or learner.state != "run" or trouble(pods):
        return None
    waiting = progress.waiting
    # Not for how long, which would be another message, and a write, at every look.
    since = stamp(datetime.fromtimestamp(waiting.since, UTC))
    message = one_line(f"{waiting.who} has waited since {since} for {waiting.target}: {waiting.cause}")
    kind = conditions.ROLLOUT_READY
    return Verdict(type=kind, status=False, reason="ServersUnreachable", message=message, is_trouble=True)


def _learner(observed: Observed, status: JobStatus, learner: Gang, roles: dict[str, RoleStatus]) -> Verdict:
    def verdict(is_running: bool, reason: str, message: str, *, is_trouble: bool = False) -> Verdict:
        return Verdict(
            type=conditions.LEARNER_RUNNING, status=is_running, reason=reason, message=message, is_trouble=is_trouble
        )

    if learner.state == "complete":
        return verdict(False, "Finished", "reading the last figures")
    if learner.state == "wait":
        return verdict(False, learner.reason, learner.message, is_trouble=learner.reason != "Stopping")
    counts, pods = roles[names.LEARNER], observed.pods_of(names.LEARNER, attempt=learner.attempt)
    if found := trouble(pods):
        return verdict(False, found.reason, found.message, is_trouble=True)
    if counts.ready < counts.desired:
        return verdict(False, "Starting", f"{counts.summary} learner pods run")
    progress = observed.word_of(learner.attempt)
    # The allocator may not answer, or not tell whose word it is: a learner begins to run with its servers there, and
    # then may lose some and go on.
    servers_ready = roles[names.ROLLOUT].ready > 0 and roles[names.ALLOCATOR].ready > 0
    may_run = servers_ready or conditions.is_true(status.conditions, conditions.LEARNER_RUNNING)
    if may_run and (progress is None or progress.phase in ("Running", "Succeeded")):
        return verdict(True, "Running", _doing(progress))
    return verdict(False, "Starting", (progress and progress.message) or "the learner waits for servers and allocator")


def _attempt(observed: Observed, status: JobStatus) -> int:
    """Number of the newest gang, whose Job somebody may have deleted."""
    return max([status.restarts, *observed.learner_jobs])


def _doing(progress: Progress | None) -> str:
    if progress is None:
        return "the learner runs; its progress cannot be read from the allocator"
    return f"iteration {progress.iteration} of {progress.max_iterations}"


def _reward(progress: Progress | None, status: JobStatus) -> list[Verdict]:
    """Whether the reward gives verdicts. Nothing is said of it before the first sample without one."""
    fraction = progress and progress.unjudged_fraction
    if progress is None or fraction is None or not (fraction or conditions.find(status.conditions, _REWARD)):
        return []
    if not fraction:
        return [Verdict(type=_REWARD, status=True, reason="Judging", message="every sample has a verdict")]
    message = f"no verdict on {percent(fraction)} of the samples of iteration {progress.iteration}"
    message += f": {progress.unjudged_message}" if progress.unjudged_message else ""
    if fraction < _MANY_UNJUDGED:
        return [Verdict(type=_REWARD, status=True, reason="Judging", message=message)]
    return [Verdict(type=_REWARD, status=False, reason="NoVerdicts", message=message, is_trouble=True)]


def _resumed(status: JobStatus) -> list[Verdict]:
    if conditions.find(status.conditions, conditions.SUSPENDED) is None:
        return []
    return [Verdict(type=conditions.SUSPENDED, status=False, reason="Resumed", message="the job was resumed")]


def _not_running(reason: str) -> list[Verdict]:
    kinds = (conditions.ROLLOUT_READY, conditions.ALLOCATOR_READY, conditions.LEARNER_RUNNING)
    return [Verdict(type=kind, status=False, reason=reason) for kind in kinds]


def _roles(observed: Observed, job: GVMTrainingJob, attempt: int) -> dict[str, RoleStatus]:
    desired = {names.ROLLOUT: job.spec.rollout.replicas, names.ALLOCATOR: 1, names.LEARNER: job.spec.learner.replicas}
    pods = {role: observed.pods_of(role) for role in desired}
    pods[names.LEARNER] = observed.pods_of(names.LEARNER, attempt=attempt)
    return {role: _count(pods[role], desired[role]) for role in desired}


def _none_desired(observed: Observed) -> dict[str, RoleStatus]:
    return {role: _count(observed.pods_of(role), 0) for role in names.ROLES}


def _count(pods: Sequence[Manifest], desired: int) -> RoleStatus:
    failed = sum(phase_of(pod) == "Failed" for pod in pods)
    return RoleStatus.of(desired=desired, ready=sum(map(is_ready, pods)), failed=failed)


def _figures(progress: Progress | None) -> dict[str, Any]:
    """The learner's figures. One that starts anew knows none yet: what it said before stands until it does."""
    if progress is None or progress.phase == "Starting":
        return {}
    figures = {name: getattr(progress, name) for name in _FIGURES}
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
