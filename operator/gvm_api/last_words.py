"""What the last lines of a process that failed come to: the exception's own words. Pure.

A traceback's frames go first, then what stands before it, then the end of what is left; the exception's type and the
beginning of its message stay in any case.
"""

import re

_BEGIN = re.compile(r"^(?P<prefix>.*?)(?:\+ )?(?:Exception Group )?Traceback \(most recent call last\):\s*$")
_RULE = re.compile(r"[=-]{3,}")
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(:|$)")


def last_words(text: str, limit: int) -> str:
    """The text in one line of at most `limit` characters, from its last exception on where it holds a traceback.

    Example:
        last_words("Traceback (most recent call last):\\n  File \"a.py\", line 1, in f\\n    g()\\nOSError: full", 80)
        is "OSError: full"
    """
    line = " ".join(" ".join(_from_last_exception(text.splitlines())).split())
    if len(line) <= limit:
        return line
    # Without an exception to begin with, a log says at its end what went wrong.
    return f"{line[: limit - 1]}…" if _EXCEPTION.match(line) else f"…{line[1 - limit :]}"


def _from_last_exception(lines: list[str]) -> list[str]:
    for number in range(len(lines) - 1, -1, -1):
        if begin := _BEGIN.match(lines[number]):
            rest = _behind_frames(lines[number + 1 :], begin["prefix"])
            if rest:
                return rest
    return _without_leading_frames(lines)


def _behind_frames(lines: list[str], prefix: str) -> list[str]:
    """What follows a traceback's frames, which stand deeper than its first line, and than the exception.

    `prefix` is what stands before "Traceback": a logger has it before each line, torchrun's report only there.
    """
    own = [line.removeprefix(prefix) if prefix.strip() else line for line in lines]
    depth = len(prefix) - len(prefix.lstrip())
    for number, (line, whole) in enumerate(zip(own, lines, strict=True)):
        allowed = 0 if line != whole else depth
        if line.strip() and len(line) - len(line.lstrip()) <= allowed:
            return [line for line in own[number:] if not _RULE.fullmatch(line.strip())]
    return []


def _without_leading_frames(lines: list[str]) -> list[str]:
    """The log's end may begin in the midst of a traceback."""
    if not any(line.lstrip().startswith('File "') for line in lines):
        return lines
    last = max(i for i, line in enumerate(lines) if line.lstrip().startswith('File "'))
    behind = _behind_frames(lines[last:], "")
    return behind or lines
