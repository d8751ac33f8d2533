"""A stream of single samples over calls of many: what is asked for goes to a server as soon as one has room.

Owns how samples are gathered into calls, and which of a call are asked for again. Knows neither seeds, rules nor
verdicts. A call's samples come back one by one; those that a server did not draw wait for the next call, wherever it
goes, so a lost server costs what it had not answered and nothing else.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from gvm_trainer.generate_api import SampleRequest
from gvm_trainer.samples import Completion
from gvm_trainer.servers import RolloutError

FEWEST_ROWS = 16
"""A server that is busy is sent no call of fewer samples, unless no more are waiting: each call costs milliseconds."""

MOST_ROWS = 256
"""Samples of a call. More are no faster, and would leave nothing for another server."""


@dataclass(slots=True, eq=False)
class Row:
    """One sample on its way."""

    request: SampleRequest
    answer: asyncio.Future[Completion]
    num_failures: int = field(default=0)
    """Calls that took it and did not draw it."""


@dataclass(slots=True)
class CallEnd:
    """How a call ended that did not draw all its samples."""

    cause: str
    counts: bool = True
    """Whether that is a failure of the samples' own, of which each may have a few; not if the server was lost."""


class Call(Protocol):
    """A call to one server that has room for its samples."""

    def draw(self, rows: Sequence[Row]) -> AsyncIterator[tuple[Row, Completion] | CallEnd]:
        """Yield samples as they are drawn; the end, if some were not."""
        ...


class Room(Protocol):
    """Finds a server for samples that wait."""

    async def __call__(self, *, fewest: int, most: int) -> tuple[Call, int]:
        """Wait for room for `fewest` samples at least; returns a call with places reserved, and how many."""
        ...


class SampleStream:
    """Draws samples for as long as the block lasts.

    Args:
        room: waits until a server has room for at least `fewest` samples (or is idle), reserves places for `most` of
            them or fewer, and returns the call and how many it may have.
        retries: how often a sample is asked for again after a server took it and failed.

    Example:
        async with SampleStream(room, retries=3) as stream:
            completion = await stream.draw(request)
    """

    def __init__(self, room: Room, *, retries: int) -> None:
        self._room, self._retries = room, retries
        self._waiting: deque[Row] = deque()
        self._is_wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._names: set[tuple[str, str, int]] = set()
        self.num_asked = 0
        self.num_drawn = 0
        self.num_retries = 0

    async def __aenter__(self) -> Self:
        self._start(self._send())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def draw(self, request: SampleRequest) -> Completion:
        """The sample that the request names.

        Raises:
            ValueError: it was asked for before.
            RolloutError: a server refuses it, it failed more than `retries` times, or there was no server for too long.
        """
        name = (request.prompt.id, request.stage, request.index)
        if name in self._names:
            raise ValueError(f"requests: sample {name} (prompt, stage, index) is asked for twice")
        self._names.add(name)
        self.num_asked += 1
        row = Row(request, asyncio.get_running_loop().create_future())
        self._want(row)
        return await row.answer

    def _want(self, row: Row) -> None:
        self._waiting.append(row)
        self._is_wanted.set()

    async def _send(self) -> None:
        """Send what waits as servers have room."""
        while True:
            await self._is_wanted.wait()
            await asyncio.sleep(0)  # what is asked for in the same breath goes together
            try:
                call, num_rows = await self._room(
                    fewest=min(len(self._waiting), FEWEST_ROWS), most=min(len(self._waiting), MOST_ROWS)
                )
            except RolloutError as error:
                self._fail(error)
                continue
            rows = [self._waiting.popleft() for _ in range(min(num_rows, len(self._waiting)))]
            if not self._waiting:
                self._is_wanted.clear()
            self._start(self._follow(call, rows))

    async def _follow(self, call: Call, rows: list[Row]) -> None:
        left = dict.fromkeys(rows)
        end = CallEnd("ended without all of its samples")
        try:
            async for answer in call.draw(rows):
                if isinstance(answer, CallEnd):
                    end = answer
                    continue
                row, completion = answer
                del left[row]
                self.num_drawn += 1
                if not row.answer.done():
                    row.answer.set_result(completion)
        except RolloutError as error:
            for row in left:
                _refuse(row, error)
            return
        for row in left:
            self._ask_again(row, end)

    def _ask_again(self, row: Row, end: CallEnd) -> None:
        row.num_failures += end.counts
        if row.num_failures > self._retries:
            _refuse(row, RolloutError(f"{end.cause} (attempt {row.num_failures}, the last)"))
            return
        self.num_retries += 1
        self._want(row)

    def _fail(self, error: RolloutError) -> None:
        while self._waiting:
            _refuse(self._waiting.popleft(), error)
        self._is_wanted.clear()

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _refuse(row: Row, error: RolloutError) -> None:
    if not row.answer.done():
        row.answer.set_exception(error)
