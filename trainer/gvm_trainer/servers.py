"""The rollout servers as the learner sees them: where they are, how busy, and which to leave alone for a while.

Knows neither prompts nor weights. One object lives on one event loop; nothing here waits except name
resolution.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import httpx

DNS_PREFIX = "dns+"
MAX_COOL_DOWN_SECONDS = 15.0
"""A server that failed is tried again at least this often: a restart takes about half a minute."""


class ServerError(RuntimeError):
    """Something went wrong between the learner and a rollout server. Names the server and the cause."""


class RolloutError(ServerError):
    """No rollout server could do what was asked."""


async def resolve_servers(urls: Sequence[str]) -> list[str]:
    """Return the servers' base URLs; `dns+http://host:port` becomes one URL for every address of the host.

    Raises:
        RolloutError: a host has no address (a headless Service without a ready pod has none).
        ValueError: a URL has no scheme, host or port that could be used.
    """
    resolved: list[str] = []
    for url in urls:
        expanded = await _resolve(url) if url.startswith(DNS_PREFIX) else [url.rstrip("/")]
        resolved.extend(address for address in expanded if address not in resolved)
    return resolved


async def _resolve(url: str) -> list[str]:
    parsed = httpx.URL(url.removeprefix(DNS_PREFIX))
    if not parsed.host or parsed.port is None:
        raise ValueError(f"rollout server {url!r}: give it as dns+http://host:port")
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RolloutError(f"rollout server {url}: {error}") from error
    return [str(parsed.copy_with(host=host)).rstrip("/") for host in sorted({str(a[4][0]) for a in found})]


@dataclass(kw_only=True, slots=True)
class Server:
    """One server and what the learner has outstanding there."""

    url: str
    num_samples: int = 0
    outstanding_tokens: int = 0
    num_failures: int = 0
    """Failures in a row; above zero only one request at a time is risked."""
    retry_at: float = 0.0


class Fleet:
    """Chooses a server for a request: the one with the fewest tokens outstanding among those in good health.

    A server that fails is left alone for `cool_down_seconds`, doubled with each further failure up to 15 s.
    When no server has succeeded for `outage_seconds` since the first failure, the outage is final.
    `concurrency` is in samples, over all requests in flight at one server.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        cool_down_seconds: float,
        outage_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._concurrency = concurrency
        self._cool_down_seconds = cool_down_seconds
        self._outage_seconds = outage_seconds
        self._clock = clock
        self._servers: dict[str, Server] = {}
        self._failing_since: float | None = None
        self._last_failure = ""

    @property
    def urls(self) -> list[str]:
        """The servers known, in the order given."""
        return list(self._servers)

    def update(self, urls: Iterable[str]) -> None:
        """Take the servers that exist now; those that stay keep their record."""
        self._servers = {url: self._servers.get(url) or Server(url=url) for url in urls}

    def pick(self, num_samples: int, num_tokens: int, *, url: str | None = None) -> Server | None:
        """Reserve places for a request (at `url`, if named), or return None when there are none now."""
        now = self._clock()
        free = [
            server
            for server in self._servers.values()
            if url in (None, server.url) and server.retry_at <= now and self._has_place(server, num_samples)
        ]
        if not free:
            return None
        server = min(free, key=lambda server: server.outstanding_tokens)
        server.num_samples += num_samples
        server.outstanding_tokens += num_tokens
        return server

    def _has_place(self, server: Server, num_samples: int) -> bool:
        # A request larger than all places still gets its turn, alone.
        if server.num_samples == 0:
            return True
        return server.num_failures == 0 and server.num_samples + num_samples <= self._concurrency

    def release(self, server: Server, num_samples: int, num_tokens: int) -> None:
        """Give the places back, whatever became of the request."""
        server.num_samples -= num_samples
        server.outstanding_tokens -= num_tokens

    def succeeded(self, server: Server) -> None:
        """Clear the server's record, and the outage."""
        server.num_failures = 0
        server.retry_at = 0.0
        self._failing_since = None

    def failed(self, server: Server, cause: str) -> None:
        """Leave the server alone for a while.

        Requests that were in flight when it failed report one after another; they count as one failure.
        """
        now = self._clock()
        self._last_failure = f"rollout server {server.url}: {cause}"
        if self._failing_since is None:
            self._failing_since = now
        if server.retry_at <= now:
            server.num_failures += 1
            pause = self._cool_down_seconds * 2 ** (server.num_failures - 1)
            server.retry_at = now + min(pause, MAX_COOL_DOWN_SECONDS)

    def seconds_to_wait(self) -> float:
        """How long until a place may be free.

        Raises:
            RolloutError: every server has been failing for longer than `outage_seconds`.
        """
        now = self._clock()
        if not self._servers:
            raise RolloutError("no rollout server is known: give at least one URL")
        if any(server.num_failures == 0 for server in self._servers.values()):
            return 0.02
        if self._failing_since is not None and now - self._failing_since > self._outage_seconds:
            raise RolloutError(
                f"no rollout server has answered for {now - self._failing_since:.0f} s; last failure: "
                f"{self._last_failure}"
            )
        return max(0.02, min(server.retry_at for server in self._servers.values()) - now)
