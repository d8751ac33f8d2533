"""The job's status: the CR's `status` in a cluster, `status.json` in a local run directory."""

from typing import Literal

from gvm_api.base import Contract

Phase = Literal["Pending", "Starting", "Running", "Suspended", "Succeeded", "Failed"]
TERMINAL: frozenset[str] = frozenset({"Succeeded", "Failed"})


class Condition(Contract):
    """One Kubernetes condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str | None = None


class RoleStatus(Contract):
    """Pods (or processes) of one role."""

    desired: int = 0
    ready: int = 0
    failed: int = 0


class JobStatus(Contract):
    """What the job is doing, and why not."""

    phase: Phase = "Pending"
    conditions: tuple[Condition, ...] = ()
    observed_generation: int | None = None
    rollout: RoleStatus = RoleStatus()
    allocator: RoleStatus = RoleStatus()
    learner: RoleStatus = RoleStatus()
    iteration: int = 0
    max_iterations: int = 0
    step: int = 0
    accuracy: float | None = None
    accept_rate: float | None = None
    samples_per_second: float | None = None
    variance_reduction: float | None = None
    start_time: str | None = None
    completion_time: str | None = None
    restarts: int = 0
    message: str = ""
