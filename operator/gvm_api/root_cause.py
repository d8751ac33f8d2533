"""Finds in the end of a log why its process ended. Pure text; knows Python, vLLM, torchrun and argparse."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PROCESS = re.compile(r"(\([\w-]+ pid=\d+\)|\[rank\d+\]:) ?")
"""vLLM puts the process's name before each line, torch the rank."""
_LEVEL = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d( \[[^\]]*\])? ?")

_ERROR = re.compile(
    r"([A-Za-z_]\w*\.)*(?=[A-Z])\w*(Error|Exception|Exit|Interrupt|Timeout|Failed|Killed)(: .*|:)?$"  # Python's
    r"|\S+: error: .+"  # argparse
    r"|Fatal Python error: .+"
    r"|terminate called .+"  # C++
)
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|Engine core proc \S+ died"
    r"|[Ss]ee (the )?(root cause|stack trace)|ChildFailedError|SignalException|[Cc]onnection (was )?(closed|reset) by"
    r"|^(SystemExit|KeyboardInterrupt|asyncio\.exceptions\.CancelledError)"
)
"""What a process says whose neighbour failed, or that was asked to end."""

_GOES_ON = re.compile(r"(:|validation errors? for \S+)$")
_FRAME = re.compile(r" +(File \"|[\^~]+$)|Traceback |During handling |The above exception |[=-]{5}")
_MORE_LINES = 2
"""How much of a message of several lines is kept; pydantic names the fault in its third."""


@dataclass(frozen=True, slots=True)
class _Line:
    prefix: str
    """Process and level, which a message of several lines repeats."""
    is_error: bool
    text: str
    """With its indentation: what a traceback quotes is no message."""


def root_cause(log_tail: str, *, limit: int = 300) -> str:
    """The last error in a log that is no mere consequence of another, as one line; empty where there is none.

    vLLM's last error is "Engine core initialization failed. See root cause above.", torchrun's a ChildFailedError.
    """
    lines = [_read(text) for text in log_tail.splitlines()]
    named = [_message(lines, i) for i, line in enumerate(lines) if _ERROR.match(line.text)]
    logged = [_message(lines, i) for i, line in enumerate(lines) if line.is_error and _is_message(line.text)]
    for errors in (
        [text for text in named if not _CONSEQUENCE.search(text)],
        [text for text in logged if not _CONSEQUENCE.search(text)],
        named,
    ):
        if errors:
            return _cut(errors[-1], limit)
    return ""


def is_error(line: str) -> bool:
    """Whether a line names an error, as the last line of a traceback does."""
    return bool(_ERROR.match(line))


def is_consequence(line: str) -> bool:
    """Whether an error only says that another process failed or that this one was asked to end."""
    return bool(_CONSEQUENCE.search(line))


def last_line(log_tail: str, *, limit: int = 300) -> str:
    """The last line of a log that says anything."""
    lines = [text for line in log_tail.splitlines() if (text := _read(line).text.strip())]
    return _cut(lines[-1], limit) if lines else ""


def _cut(text: str, limit: int) -> str:
    """The beginning, which names the fault; what follows explains it."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _read(text: str) -> _Line:
    text = _COLOUR.sub("", text)
    process = _PROCESS.match(text)
    start = process.end() if process else 0
    level = _LEVEL.match(text, start)
    rest = level.end() if level else start
    return _Line(text[:rest], level is not None and level[1] in ("ERROR", "CRITICAL"), text[rest:].rstrip())


def _message(lines: Sequence[_Line], start: int) -> str:
    first = lines[start]
    parts = [first.text]
    for line in lines[start + 1 : start + 1 + _MORE_LINES]:
        belongs = line.prefix == first.prefix and line.text and not _FRAME.match(line.text)
        if not belongs or not (_GOES_ON.search(parts[-1]) or line.text.startswith(" ")):
            break
        parts.append(line.text.partition(" [type=")[0])
        if parts[-1] != line.text:  # what pydantic adds is its own business
            break
    return " ".join(part.strip() for part in parts)


def _is_message(text: str) -> bool:
    return bool(text) and not text.startswith(" ") and not _FRAME.match(text)
