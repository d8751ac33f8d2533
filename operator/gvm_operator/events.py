"""Events for every transition: what a user reads in `kubectl describe`. Pure."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from gvm_api.status import Condition, JobStatus
from gvm_operator import conditions
from gvm_operator.observed import Manifest, stamp

COMPONENT = "gvm-operator"
_ON_THE_WAY = ("Starting", "Stopping", "Suspending", "Suspended", "Finished", "Resumed")
"""Reasons of a False that are a stage, and no trouble."""
_MAX_MESSAGE = 1024  # the API server's limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def transitions(before: JobStatus, after: JobStatus) -> Iterator[Event]:
    """What happened between two statuses, an event each."""
    if before.start_time is None and after.start_time is not None:
        yield Event(type="Normal", reason="Started", message="servers, allocator and learner are being created")
    for condition in after.conditions:
        old = conditions.find(before.conditions, condition.type)
        if old is None or (old.status, old.reason) != (condition.status, condition.reason):
            yield from _of_condition(condition)
    if after.restarts > before.restarts:
        yield Event(
            type="Normal",
            reason="GangRestarted",
            message=f"restart {after.restarts} of the learner, from its checkpoint",
        )


def _of_condition(condition: Condition) -> Iterator[Event]:
    kind, message = condition.type, condition.message
    if condition.status == "True":
        if kind == conditions.FAILED:
            yield Event(type="Warning", reason=condition.reason, message=message)
        else:
            yield Event(type="Normal", reason=kind, message=message or kind)
    elif condition.reason == "Resumed":
        yield Event(type="Normal", reason="Resumed", message=message)
    elif condition.reason not in _ON_THE_WAY:
        yield Event(type="Warning", reason=condition.reason, message=message or condition.reason)


def manifest(event: Event, job: Manifest, now: datetime) -> dict[str, Any]:
    """The Kubernetes Event; the same thing said twice has the same name, and is counted instead."""
    metadata = job["metadata"]
    content = f"{metadata['uid']} {event.type} {event.reason} {event.message}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_MAX_MESSAGE],
        "source": {"component": COMPONENT},
        "firstTimestamp": stamp(now),
        "lastTimestamp": stamp(now),
        "count": 1,
    }
