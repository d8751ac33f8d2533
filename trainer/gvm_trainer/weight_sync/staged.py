"""Sync through files: shards written once, then fetched over HTTP or read from a shared folder.

All servers verify what they fetched before any of them loads it, so a bad transfer changes no server.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gvm_trainer.servers import resolve_servers
from gvm_trainer.storage import writing
from gvm_trainer.weight_sync.contract import SyncResult, WeightSyncError
from gvm_trainer.weight_sync.control import ServerControl, open_http
from gvm_trainer.weight_sync.file_server import FileServer
from gvm_trainer.weight_sync.shards import SHARD_BYTES, Shard, write_shards


class StagedWeightSync:
    """The sequence common to both: pause, init, start, fetch, then load and finish, resume.

    `init` goes out with every push: it costs a millisecond, and a server that was restarted in between needs
    nothing special.
    """

    def __init__(
        self, urls: Sequence[str], *, directory: Path, timeout_seconds: float, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self._addresses = tuple(urls)
        self._directory = directory
        self._timeout_seconds = timeout_seconds
        self._shard_bytes = shard_bytes
        self._version: int | None = None
        self._shards: list[Shard] = []
        self._restoring = asyncio.Lock()

    def _init_info(self) -> dict[str, Any]:
        raise NotImplementedError

    def _location(self, shard: Shard) -> str:
        raise NotImplementedError

    async def push(self, named_tensors: Iterable[tuple[str, Tensor]], version: int) -> SyncResult:
        """Put these weights into all servers; see `WeightSync.push`."""
        start = time.monotonic()
        folder = self._directory / str(version)
        with writing(folder):
            self._shards = write_shards(folder, named_tensors, shard_bytes=self._shard_bytes)
        self._version = version
        urls = await resolve_servers(self._addresses)
        await self._distribute(urls, version)
        self._keep_only(folder)
        return SyncResult(
            seconds=time.monotonic() - start,
            num_bytes=sum(shard.num_bytes for shard in self._shards),
            num_servers=len(urls),
        )

    async def restore(self, url: str) -> None:
        """Put the weights of the last push into one server; see `WeightSync.restore`."""
        if self._version is None:
            raise WeightSyncError(f"rollout server {url}: there are no weights to restore, none were pushed yet")
        # Every request that meets the restarted server asks for this; the first one does it.
        async with self._restoring, open_http(self._timeout_seconds) as http:
            control = ServerControl(http, url, timeout_seconds=self._timeout_seconds)
            if await control.version() != str(self._version):
                await self._distribute([url], self._version)

    def close(self) -> None:
        """Delete the shards."""
        self._version = None
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _distribute(self, urls: Sequence[str], version: int) -> None:
        shards = [shard.announce(self._location(shard)) for shard in self._shards]
        async with open_http(self._timeout_seconds) as http:
            controls = [ServerControl(http, url, timeout_seconds=self._timeout_seconds) for url in urls]
            try:
                await _all(control.pause() for control in controls)
                await self._fetch_all(controls, shards)
                await _all(_commit(control, version) for control in controls)
            finally:
                # A server left paused would hold every later request until its client gives up.
                await asyncio.gather(*(control.resume() for control in controls), return_exceptions=True)

    async def _fetch_all(self, controls: list[ServerControl], shards: list[dict[str, Any]]) -> None:
        try:
            await _all(self._fetch(control, shards) for control in controls)
        except WeightSyncError:
            await asyncio.gather(*(control.abandon() for control in controls), return_exceptions=True)
            raise

    async def _fetch(self, control: ServerControl, shards: list[dict[str, Any]]) -> None:
        await control.init(self._init_info())
        await control.start()
        await control.update({"stage": "fetch", "shards": shards})

    def _keep_only(self, folder: Path) -> None:
        for other in self._directory.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)


async def _commit(control: ServerControl, version: int) -> None:
    # First, and not after a failure: then the server may not hear it, and serve half a policy under the old label.
    await control.set_undefined()
    await control.update({"stage": "load"})
    await control.finish(version)


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """Wait for every server, then raise the first failure: none may still be at work when others go on."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


class HttpWeightSync(StagedWeightSync):
    """Servers fetch from a file server on rank 0 (server backend `gvm_http`).

    Args:
        urls: the rollout servers.
        directory: where shards are kept; its contents are deleted.
        advertise_host: the name or address under which servers reach this process.
        port: to listen on; 0 takes a free one.
        bind_host: the address to bind; "" for all.
        timeout_seconds: for each step at each server.
        fetch_timeout_seconds: how long a server waits for the next bytes; it tries three times.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        directory: Path,
        advertise_host: str,
        port: int,
        bind_host: str = "",
        timeout_seconds: float,
        fetch_timeout_seconds: float = 60.0,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        super().__init__(urls, directory=directory, timeout_seconds=timeout_seconds, shard_bytes=shard_bytes)
        self._fetch_timeout_seconds = fetch_timeout_seconds
        # Both ends belong to this run, so the token need not outlive it or be configured.
        self._token = secrets.token_urlsafe(32)
        directory.mkdir(parents=True, exist_ok=True)
        self._server = FileServer(directory, host=bind_host, port=port, token=self._token)
        host = f"[{advertise_host}]" if ":" in advertise_host else advertise_host
        self._base_url = f"http://{host}:{self._server.port}"

    def _init_info(self) -> dict[str, Any]:
        return {"token": self._token, "timeout_seconds": self._fetch_timeout_seconds, "attempts": 3}

    def _location(self, shard: Shard) -> str:
        return f"{self._base_url}/{shard.path.parent.name}/{shard.path.name}"

    def close(self) -> None:
        """Stop serving and delete the shards."""
        self._server.close()
        super().close()


class FilesystemWeightSync(StagedWeightSync):
    """Servers read from a folder that they share with the learner (server backend `gvm_filesystem`).

    Args:
        urls: the rollout servers.
        directory: where shards are kept; its contents are deleted.
        server_directory: the same folder as the servers see it; None if they see it under the same path.
        timeout_seconds: for each step at each server.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        directory: Path,
        server_directory: Path | None = None,
        timeout_seconds: float,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        super().__init__(urls, directory=directory, timeout_seconds=timeout_seconds, shard_bytes=shard_bytes)
        self._server_directory = server_directory or directory.resolve()

    def _init_info(self) -> dict[str, Any]:
        return {"directory": str(self._server_directory)}

    def _location(self, shard: Shard) -> str:
        return f"{shard.path.parent.name}/{shard.path.name}"
