"""Names of a job's children, deterministic in the job's name, and the limits they put on it."""

import re

ALLOCATOR = "allocator"
ROLLOUT = "rollout"
LEARNER = "learner"
ROLES = (ROLLOUT, ALLOCATOR, LEARNER)

_LONGEST_SUFFIX = "-allocator-token"
# Pods of an Indexed Job add "-<index>-<5 characters>" to a name that becomes a DNS label.
_POD_SUFFIX = len("-1023-abcde")
MAX_JOB_NAME = 63 - len(_LONGEST_SUFFIX) - _POD_SUFFIX
_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def check_job_name(name: str) -> None:
    """Refuse a job name whose children could not be named.

    Raises:
        ValueError: `name` is no DNS label that starts with a letter, or it is longer than `MAX_JOB_NAME`.
    """
    if not _DNS_LABEL.fullmatch(name):
        raise ValueError(f"{name!r} is no DNS label; use lower-case letters, digits and '-', a letter first")
    if len(name) > MAX_JOB_NAME:
        raise ValueError(f"{name!r} has {len(name)} characters; use at most {MAX_JOB_NAME}")


def child(job: str, role: str) -> str:
    """Name of the children of one role, e.g. arithmetic-rollout."""
    return f"{job}-{role}"


def learner_attempt(job: str, attempt: int) -> str:
    """Name of the learner's Job of one attempt, from 0: each restart of the gang is a Job of its own."""
    return f"{job}-{LEARNER}-{attempt}"


def token_secret(job: str) -> str:
    """Name of the Secret with the allocator's bearer token."""
    return f"{job}-allocator-token"


def config(job: str) -> str:
    """Name of the ConfigMap that holds the job file."""
    return f"{job}-job"


def run_claim(job: str) -> str:
    """Name of the claim that holds the run directory."""
    return f"{job}-run"
