"""Seconds by stage of one iteration. Knows only the stages' names."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("pilot", "grad_norms", "plan", "main", "score", "train", "sync", "evaluate", "records", "checkpoint")


class Stopwatch:
    """Counts from its making on. `total` is all of it, so what no stage names shows as a gap."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the time within towards a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent[stage] += time.perf_counter() - begun

    def read(self) -> dict[str, float]:
        """Every stage's seconds so far, and the total's."""
        return {stage: self._spent[stage] for stage in STAGES} | {"total": time.perf_counter() - self._begun}
