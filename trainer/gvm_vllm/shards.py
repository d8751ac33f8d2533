"""Weights on their way in: fetch the shards of one version, verify each byte, only then read tensors.

Knows neither vLLM nor the model. The learner announces every shard with its size, its SHA-256 and the name,
type and shape of every tensor in it, so that a truncated, foreign or half-written file is refused before any
weight is touched.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors import safe_open

CHUNK_BYTES = 4 * 1024 * 1024
"""How much is read at a time: large enough that hashing dominates, small enough not to show in memory."""


class WeightsRejectedError(RuntimeError):
    """The announced weights could not be fetched or are not what was announced. The model is as it was."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One safetensors file as the learner announced it.

    Example:
        Shard(location="http://learner:8400/weights/3/0.safetensors", num_bytes=3376, sha256="9f…",
              tensors={"model.norm.weight": ("F32", (128,))})
    """

    location: str
    num_bytes: int
    sha256: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> "Shard":
        """Read one element of the announcement's `shards`.

        Raises:
            ValueError: a key is missing or malformed.
        """
        try:
            tensors = {n: (str(t["dtype"]), tuple(map(int, t["shape"]))) for n, t in wire["tensors"].items()}
            return cls(
                location=str(wire["location"]),
                num_bytes=int(wire["num_bytes"]),
                sha256=str(wire["sha256"]),
                tensors=tensors,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"shard: malformed announcement ({error!r})") from error


@dataclass(frozen=True, kw_only=True)
class HttpSource:
    """How to reach the learner's file server."""

    token: str = field(repr=False)
    timeout_seconds: float
    attempts: int

    def fetch(self, shards: Sequence[Shard], spool: Path) -> list[Path]:
        """Download and verify all shards into `spool`; returns their paths, in order.

        Raises:
            WeightsRejectedError: a shard could not be fetched within `attempts`, or is not what was
            announced.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        # Proxies are for the world outside; the learner is a neighbour.
        with httpx.Client(headers=headers, timeout=self.timeout_seconds, trust_env=False) as client:
            return [self._fetch_one(client, shard, spool / f"{i}.safetensors") for i, shard in enumerate(shards)]

    def _fetch_one(self, client: httpx.Client, shard: Shard, path: Path) -> Path:
        for attempt in range(1, self.attempts + 1):
            try:
                with client.stream("GET", shard.location) as response, path.open("wb") as file:
                    response.raise_for_status()
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        file.write(chunk)
                verify(shard, path)
                return path
            except (httpx.HTTPError, WeightsRejectedError) as error:
                if attempt == self.attempts:
                    raise WeightsRejectedError(
                        f"{shard.location}: gave up after {attempt} attempts: {error}"
                    ) from error
                time.sleep(min(2.0, 0.1 * 2**attempt))
        raise AssertionError("attempts is at least 1")


def verify(shard: Shard, path: Path) -> None:
    """Check size, checksum and contents of `path` against the announcement.

    Raises:
        WeightsRejectedError: names the first difference.
    """
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise WeightsRejectedError(f"{shard.location}: {error}") from error
    if num_bytes != shard.num_bytes:
        raise WeightsRejectedError(f"{shard.location}: {num_bytes} bytes, announced were {shard.num_bytes}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        raise WeightsRejectedError(f"{shard.location}: SHA-256 is {digest}, announced was {shard.sha256}")
    found = _read_header(path)
    for name in sorted(found.keys() | shard.tensors.keys()):
        if found.get(name) != shard.tensors.get(name):
            raise WeightsRejectedError(
                f"{shard.location}: tensor {name} is {found.get(name)}, announced was {shard.tensors.get(name)}"
            )


def _read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    # A safetensors file opens with the length of its JSON header (8 bytes, little-endian), then the header.
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def iterate_tensors(paths: Sequence[Path], shards: Sequence[Shard]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in the announced order, one in memory at a time (CPU, memory-mapped)."""
    for path, shard in zip(paths, shards, strict=True):
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in shard.tensors:
                yield name, file.get_tensor(name)


def new_spool() -> tempfile.TemporaryDirectory[str]:
    """Return a private folder for downloaded shards, deleted on `cleanup()` (honours TMPDIR)."""
    return tempfile.TemporaryDirectory(prefix="gvm-weights-")
