"""Whether a job's spec can be run, and which spec that is: the one it was started with, but for what may change. Pure.

The CRD says most of this at admission; a cluster may be too old for its rules, or a job older than they are.
"""

from dataclasses import dataclass
from functools import lru_cache

from gvm_api import names
from gvm_api.load import InvalidJobError, one_line, parse_job, validate_job
from gvm_api.spec import GVMTrainingJob
from gvm_operator.observed import Observed
from gvm_operator.site import JOB_FILE_NAME

MUTABLE_RUN_POLICY = ("suspend", "ttl_seconds_after_finished", "active_deadline_seconds", "startup_deadline_seconds")
"""Fields of runPolicy that may change once the job was started; rollout.replicas may as well."""

INVALID_SPEC = "InvalidSpec"
IMMUTABLE_FIELD = "ImmutableField"
OPERATOR_NAMESPACE = "OperatorNamespace"


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """What to run, and what is wrong with what was asked for."""

    job: GVMTrainingJob | None
    """None where nothing can be run."""
    reason: str = "Accepted"
    message: str = ""


def accept(observed: Observed) -> Acceptance:
    """Judge the job's spec against the models, and against what it was started with."""
    started = _started_job(observed)
    try:
        wanted = validate_job({key: value for key, value in observed.job.items() if key != "status"})
    except InvalidJobError as error:
        return Acceptance(job=started, reason=INVALID_SPEC, message=one_line("; ".join(error.problems), 1000))
    if started is None:
        return Acceptance(job=wanted)
    effective = _with_mutable_fields(started, wanted)
    changed = _differences(effective, wanted)
    if changed:
        message = f"{changed[0]}: cannot change once the job was started; change it back, or make a job of another name"
        return Acceptance(job=effective, reason=IMMUTABLE_FIELD, message=message)
    return Acceptance(job=effective)


def closed_to_jobs(namespace: str) -> Acceptance:
    """The operator's own namespace. A job that was started there goes unattended, too: nothing tells who started it."""
    message = (
        f"namespace {namespace} is the operator's own, where a job's pods could use its service account and token key; "
        "make the job in another namespace"
    )
    return Acceptance(job=None, reason=OPERATOR_NAMESPACE, message=message)


def _started_job(observed: Observed) -> GVMTrainingJob | None:
    config = observed.child("ConfigMap", names.config(observed.job["metadata"]["name"]))
    text = ((config or {}).get("data") or {}).get(JOB_FILE_NAME)
    return _parsed(text) if text is not None else None


@lru_cache(maxsize=1024)  # every look at a job reads it again, and YAML takes its time
def _parsed(text: str) -> GVMTrainingJob | None:
    try:
        return parse_job(text, source="the job's ConfigMap")
    except InvalidJobError:
        return None  # of a version whose fields were other ones, or edited: the object itself is what there is


def _with_mutable_fields(started: GVMTrainingJob, wanted: GVMTrainingJob) -> GVMTrainingJob:
    rollout = started.spec.rollout.model_copy(update={"replicas": wanted.spec.rollout.replicas})
    policy = started.spec.run_policy.model_copy(
        update={name: getattr(wanted.spec.run_policy, name) for name in MUTABLE_RUN_POLICY}
    )
    spec = started.spec.model_copy(update={"rollout": rollout, "run_policy": policy})
    return wanted.model_copy(update={"spec": spec})


def _differences(one: GVMTrainingJob, other: GVMTrainingJob) -> list[str]:
    """Paths of the fields that differ."""
    before, now = one.spec.model_dump(mode="json"), other.spec.model_dump(mode="json")
    return [
        f"spec.{section}.{field}" if isinstance(now[section], dict) else f"spec.{section}"
        for section in now
        if before[section] != now[section]
        for field in (now[section] if isinstance(now[section], dict) else [""])
        if not field or before[section].get(field) != now[section][field]
    ]
