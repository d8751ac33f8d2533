"""Single samples in, completions out; requests that come together travel together.

Owns how requests are gathered into calls. Knows neither servers nor retries: `ask` sees to a call's answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from gvm_trainer.generate_api import Group, SampleRequest, group_requests
from gvm_trainer.samples import Completion

Ask = Callable[[Group], Awaitable[list[Completion]]]


class SampleStream:
    """Draws samples for as long as the block lasts.

    Args:
        ask: one call to a server; it returns the completions of its requests in their order.
        max_size: most samples in a call.

    Example:
        async with SampleStream(ask, max_size=8) as stream:
            completion = await stream.draw(request)
    """

    def __init__(self, ask: Ask, *, max_size: int) -> None:
        self._ask, self._max_size = ask, max_size
        self._pending: list[tuple[SampleRequest, asyncio.Future[Completion]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def draw(self, request: SampleRequest) -> Completion:
        """The sample that the request names.

        Raises:
            RolloutError: as `RolloutClient.sample` says.
        """
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._send)
        self._pending.append((request, future))
        return await future

    def _send(self) -> None:
        """Send what has come since the last time: requests of one prompt go together."""
        pending, self._pending = self._pending, []
        futures = {(r.prompt.id, r.stage, r.index): future for r, future in pending}
        for group in group_requests([request for request, _ in pending], self._max_size):
            call = asyncio.create_task(self._call(group, [futures[r.prompt.id, r.stage, r.index] for r in group]))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, group: Group, futures: list[asyncio.Future[Completion]]) -> None:
        try:
            completions = await self._ask(group)
        except Exception as error:  # noqa: BLE001 (whoever asked gets it)
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, completion in zip(futures, completions, strict=True):
            if not future.done():
                future.set_result(completion)
