"""JSON lines in, verdicts as JSON lines out. Knows neither files nor the terminal."""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

from gvm_trainer.rewards.verifier import Verdict, Verifier

_KEYS = ("completion", "answer")
_MOST_IN_FLIGHT = 1024  # lines: an endless input is scored in bounded memory


def score_lines(lines: Iterable[str], verifier: Verifier) -> Iterator[str]:
    """Score lines {"completion": ..., "answer": ...} into {"reward": ..., "outcome": ...}, in their order.

    Other keys are ignored, blank lines skipped; "message" is there where it says something. Every line before
    a bad one is scored before the error is raised.

    Raises:
        ValueError: a line is no such object; the message names its number (from 1), the key and the fix.
    """
    waiting: deque[Future[Verdict]] = deque()
    try:
        for completion, answer in _read_pairs(lines):
            waiting.append(verifier.submit(completion, answer))
            if len(waiting) >= _MOST_IN_FLIGHT:
                yield _as_line(waiting.popleft().result())
    except ValueError:
        yield from (_as_line(future.result()) for future in waiting)
        raise
    yield from (_as_line(future.result()) for future in waiting)


def _read_pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            completion, answer = _read_pair(number, line)
            yield completion, answer


def _read_pair(number: int, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: not JSON ({error}); write one object a line") from error
    if not isinstance(record, dict):
        raise ValueError(
            f'line {number}: {line.strip()[:40]!r} is no object; write {{"completion": ..., "answer": ...}}'
        )
    for key in _KEYS:
        if not isinstance(record.get(key), str):
            given = f"is {record[key]!r}" if key in record else "is missing"
            raise ValueError(f'line {number}: key "{key}" {given}; give it as a string')
    return record["completion"], record["answer"]


def _as_line(verdict: Verdict) -> str:
    record = {"reward": verdict.reward, "outcome": verdict.outcome}
    return json.dumps(record | ({"message": verdict.message} if verdict.message else {}), ensure_ascii=False)
