"""A queue of jobs to look at: each at most once, never two at a time, now or later. As client-go's work queue."""

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys that wait for a worker, on one event loop.

    A key that is added while it is worked on comes again when that is done. Of several times asked for, the
    earliest counts.
    """

    def __init__(self) -> None:
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._at_work: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Keys that are due."""
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Ask for a look at once."""
        self._cancel_timer(key)
        if key in self._at_work:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a look in a while; one that is asked for sooner stays."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, seconds)
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= when:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_at(when, self._due, key)

    def forget(self, key: K) -> None:
        """Drop what was asked for later."""
        self._cancel_timer(key)

    async def get(self) -> K:
        """The next key; `done` must follow."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._at_work.add(key)
        return key

    def done(self, key: K) -> None:
        """The look at a key is over."""
        self._at_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
