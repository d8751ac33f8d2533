"""How `gvm status` looks: a table of jobs, or one job in detail; and the same as JSON. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gvm_api import names
from gvm_api.status import Condition, JobStatus
from gvm_cli.status_hints import is_bad, next_steps
from gvm_operator.observed import time_of

Manifest = dict[str, Any]

_ROOM_FOR_MESSAGES = 150
"""Columns of a terminal from which the messages stand in the table."""
_ROOM_FOR_ALL, _LEFT_OUT = 120, ("ACCEPT", "VAR CUT", "ALLOC", "RESTARTS")
"""Columns of a terminal below which some facts are left to the detail."""
_PHASE_STYLES = {"Running": "green", "Succeeded": "green", "Failed": "red"}
_NUM_EVENTS = 10
_UNKNOWN = "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What one look showed."""

    shown: RenderableType
    data: Any
    """The same for programs."""
    remark: str = ""
    """What could not be seen."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.shown
        if self.remark:
            yield Text(self.remark, style="red")

    def as_json(self) -> str:
        """One line; `remark` is there where something could not be seen."""
        remark = {"remark": self.remark} if self.remark else {}
        return json.dumps(self.data | remark)


def table(jobs: Sequence[Manifest], place: str, now: datetime) -> View:
    """Jobs of a namespace, or of all (`place` is empty), a line each."""
    ordered = sorted(jobs, key=lambda job: (job["metadata"]["namespace"], job["metadata"]["name"]))
    data = {"jobs": [_as_dict(job, read_status(job)) for job in ordered]}
    if not ordered:
        where = f"namespace {place}; gvm status -A shows all" if place else "the cluster"
        return View(shown=Text(f"no jobs in {where}"), data=data)
    return View(shown=_Jobs(jobs=ordered, shows_namespace=not place, now=now), data=data)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Jobs:
    """A table whose messages stand below where they have no room in it."""

    jobs: Sequence[Manifest]
    shows_namespace: bool
    now: datetime

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out = ["MESSAGE"] if options.max_width < _ROOM_FOR_MESSAGES else []
        left_out += [] if self.shows_namespace else ["NAMESPACE"]
        left_out += _LEFT_OUT if options.max_width < _ROOM_FOR_ALL else ()
        rows = [_row(job, read_status(job), self.now) for job in self.jobs]
        columns = [column for column in rows[0] if column not in left_out]
        shown = _table(*columns)
        for row in rows:
            shown.add_row(*(row[column] for column in columns))
        yield shown
        for row in rows:
            if row["MESSAGE"].plain and "MESSAGE" in left_out:
                yield Text.assemble(
                    (f"{row['NAME'].plain}: ", "bold"), row["MESSAGE"], no_wrap=True, overflow="ellipsis"
                )


def detail(job: Manifest, events: Sequence[Manifest], now: datetime) -> View:
    """One job: roles, conditions, events, checkpoints, next steps."""
    status, recent = read_status(job), sorted(events, key=_last_seen)[-_NUM_EVENTS:]
    steps = list(next_steps(job, status, now))
    shown = Group(
        *_head(job, status, now),
        _roles(status),
        *([_conditions(status, now)] if status.conditions else []),
        *([_events(recent, now)] if recent else []),
        *([Text(f"\ncheckpoints  {status.checkpoints}")] if status.checkpoints else []),
        *([Text("\nnext", style="bold")] if steps else []),
        *(Text(f"  {step}") for step in steps),
    )
    return View(shown=shown, data=_as_dict(job, status) | {"events": [_event(e) for e in recent], "next": steps})


def read_status(job: Manifest) -> JobStatus:
    """A job's status; fields that a newer operator may have added are left out."""
    try:
        return JobStatus.model_validate(job.get("status") or {}, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        return JobStatus(message=f"status.{field} cannot be read; the operator is of another version than this gvm")


def _row(job: Manifest, status: JobStatus, now: datetime) -> dict[str, Text]:
    metadata = job["metadata"]
    return {
        "NAMESPACE": Text(metadata["namespace"]),
        "NAME": Text(metadata["name"]),
        "PHASE": _phase(status),
        "ITER": Text(_iterations(status)),
        "ACCURACY": Text(_number(status.accuracy, ".3f")),
        "ACCEPT": Text(_number(status.accept_rate, ".3f")),
        "VAR CUT": Text(_number(status.realised_variance_reduction, ".0%")),
        "ROLLOUT": Text(status.rollout.summary or _UNKNOWN),
        "ALLOC": Text(status.allocator.summary or _UNKNOWN),
        "LEARNER": Text(status.learner.summary or _UNKNOWN),
        "RESTARTS": Text(str(status.restarts)),
        "AGE": Text(_age(metadata.get("creationTimestamp"), now)),
        # One job is one line, however long its message.
        "MESSAGE": Text(status.message, no_wrap=True, overflow="ellipsis"),
    }


def _head(job: Manifest, status: JobStatus, now: datetime) -> list[Text]:
    metadata = job["metadata"]
    title = Text.assemble((metadata["name"], "bold"), f" in {metadata['namespace']}  ", _phase(status))
    title.append(f"  {_age(metadata.get('creationTimestamp'), now)} old")
    figures = {
        "iteration": _iterations(status),
        "accuracy": _number(status.accuracy, ".3f"),
        "accept rate": _number(status.accept_rate, ".3f"),
        "variance cut (realised)": _number(status.realised_variance_reduction, ".0%"),
        "samples/s": _number(status.samples_per_second, ".0f"),
        "restarts": str(status.restarts),
    }
    line = Text("  ".join(f"{name} {value}" for name, value in figures.items()))
    return [title, *([Text(status.message)] if status.message else []), line, Text()]


def _roles(status: JobStatus) -> Table:
    shown = _table("ROLE", "READY", "FAILED")
    for role in names.ROLES:
        counts = getattr(status, role)
        shown.add_row(role, counts.summary or _UNKNOWN, str(counts.failed))
    return shown


def _conditions(status: JobStatus, now: datetime) -> Group:
    shown = _table("CONDITION", "STATUS", "REASON", "AGE", "MESSAGE")
    for each in status.conditions:
        verdict = Text(each.status, style=_condition_style(each))
        shown.add_row(each.type, verdict, each.reason, _age(each.last_transition_time, now), Text(each.message))
    return Group(Text(), shown)


def _condition_style(condition: Condition) -> str:
    if is_bad(condition):
        return "red"
    return "green" if condition.status == "True" else "yellow"


def _events(events: Sequence[Manifest], now: datetime) -> Group:
    shown = _table("LAST SEEN", "TYPE", "EVENT", "COUNT", "MESSAGE")
    for each in map(_event, events):
        style = "red" if each["type"] == "Warning" else ""
        last_seen, count = _age(each["lastTimestamp"], now), str(each["count"])
        shown.add_row(last_seen, Text(each["type"], style=style), each["reason"], count, Text(each["message"]))
    return Group(Text(), shown)


def _event(event: Manifest) -> dict[str, Any]:
    texts = {key: event.get(key) or "" for key in ("type", "reason", "message")}
    return {**texts, "count": event.get("count") or 1, "lastTimestamp": _last_seen(event)}


def _last_seen(event: Manifest) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


def _as_dict(job: Manifest, status: JobStatus) -> dict[str, Any]:
    metadata = {key: job["metadata"].get(key) for key in ("namespace", "name", "creationTimestamp")}
    return {**metadata, "status": status.model_dump(mode="json")}


def _table(*columns: str) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(column, no_wrap=column != "MESSAGE", overflow="fold" if column == "MESSAGE" else "ellipsis")
    return shown


def _phase(status: JobStatus) -> Text:
    return Text(status.phase, style=_PHASE_STYLES.get(status.phase, "yellow"))


def _iterations(status: JobStatus) -> str:
    return f"{status.iteration}/{status.max_iterations}" if status.max_iterations else _UNKNOWN


def _number(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None else f"{value:{form}}"


def _age(timestamp: str | None, now: datetime) -> str:
    """How long ago, as kubectl says it: 45s, 17m, 5h, 3d."""
    moment = time_of(timestamp)
    if moment is None:
        return _UNKNOWN
    seconds = max(timedelta(), now - moment) // timedelta(seconds=1)
    for unit, length, most in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds // length}{unit}"
    return f"{seconds // 86_400}d"
