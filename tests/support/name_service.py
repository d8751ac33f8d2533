"""An event loop with a name service of its own: which addresses the name `rollout` has is the test's to say."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NameService(asyncio.SelectorEventLoop):
    """Lists `addresses` under the name `rollout`, as DNS does of a headless Service; or does not answer."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self.addresses = list(addresses)
        self.answers = True
        self.num_looks = 0

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        if host != "rollout":
            return await super().getaddrinfo(host, port, **hints)
        self.num_looks += 1
        if not self.answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


def run_with(names: NameService, main: Callable[[], Coroutine[Any, Any, T]], *, seconds: float = 20.0) -> T:
    """Run `main()` on the loop; what takes longer than `seconds` hangs."""

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await main()

    with asyncio.Runner(loop_factory=lambda: names) as runner:
        return runner.run(limited())
