"""When a server that ended is started again: after pauses that grow, and not for ever. As a kubelet does it."""

from collections.abc import Callable
from dataclasses import dataclass

MAX_RESTARTS = 5
_FIRST_PAUSE_SECONDS = 1.0
_STABLE_SECONDS = 600.0


@dataclass(kw_only=True, slots=True)
class Restarts:
    """Those of one server. Who has run for ten minutes begins anew."""

    clock: Callable[[], float]
    """Seconds."""
    count: int = 0
    _since: float = 0.0
    _due: float | None = None

    def started(self) -> None:
        """It runs from now on."""
        self._since, self._due = self.clock(), None

    def ended(self) -> float | None:
        """It ended, or could not start; the seconds until it starts again, None where it has ended too often."""
        now = self.clock()
        if self._due is None and now - self._since >= _STABLE_SECONDS:
            self.count = 0
        if self.count == MAX_RESTARTS:
            return None
        pause = _FIRST_PAUSE_SECONDS * 2.0**self.count
        self.count += 1
        self._due = now + pause
        return pause

    @property
    def is_waiting(self) -> bool:
        """Whether its end is known and its start is still to come."""
        return self._due is not None

    @property
    def is_due(self) -> bool:
        """Whether it is to start now."""
        return self._due is not None and self.clock() >= self._due
