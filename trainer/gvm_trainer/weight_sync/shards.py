"""Writes one policy version as safetensors shards and describes them for the servers to check."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 * 1024**3
"""A shard's size at most (a larger tensor gets its own): what rank 0 holds in memory at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file, and what the servers check it against."""

    path: Path
    num_bytes: int
    sha256: str
    tensors: dict[str, dict[str, Any]]

    def announce(self, location: str) -> dict[str, Any]:
        """Return what the servers' plugin reads (gvm_vllm.shards.Shard)."""
        return {
            "location": location,
            "num_bytes": self.num_bytes,
            "sha256": self.sha256,
            "tensors": self.tensors,
        }


def write_shards(
    directory: Path, named_tensors: Iterable[tuple[str, Tensor]], *, shard_bytes: int = SHARD_BYTES
) -> list[Shard]:
    """Write all tensors into `directory`, which appears complete or not at all.

    Raises:
        ValueError: no tensor, or a name that comes twice.
    """
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
    partial.mkdir(parents=True)
    seen: set[str] = set()
    shards = []
    for index, tensors in enumerate(_fill(named_tensors, shard_bytes)):
        if twice := seen & tensors.keys():
            raise ValueError(f"named_tensors: {min(twice)} comes twice; give each weight once")
        seen |= tensors.keys()
        shards.append(_write(directory, partial, f"{index}.safetensors", tensors))
    if not shards:
        raise ValueError("named_tensors: there are none")
    partial.rename(directory)
    return shards


def _fill(named_tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in named_tensors:
        if shard and (name in shard or size + tensor.nbytes > shard_bytes):
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    if shard:
        yield shard


def _write(directory: Path, partial: Path, name: str, tensors: dict[str, Tensor]) -> Shard:
    path = partial / name
    save_file(tensors, path)
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())  # another machine reads it: what it sees must be what was hashed
    return Shard(
        path=directory / name,
        num_bytes=path.stat().st_size,
        sha256=digest,
        tensors={n: {"dtype": _DTYPES[str(t.dtype)], "shape": list(t.shape)} for n, t in tensors.items()},
    )


_DTYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float64": "F64"}
