"""Segments of shared memory under /dev/shm: which ones processes use, and the removal of those that nobody uses.

They have no folder of a run's own, and who is killed leaves them behind. Elsewhere than on Linux there are none.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

_FOLDER = Path("/dev/shm")


def used_by(members: Iterable[psutil.Process]) -> set[str]:
    """Paths of our segments that these processes have mapped."""
    return {path for member in members for path in _mapped(member.pid) if _is_ours(Path(path))}


def remove_unused(paths: Iterable[str]) -> None:
    """Remove segments, but for those that some process has mapped still, or again."""
    left = {path for path in paths if Path(path).parent == _FOLDER and _is_ours(Path(path))}
    if left:
        left -= {path for pid in psutil.pids() for path in _mapped(pid)}
    for path in left:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_uid == os.getuid()
    return False


def _mapped(pid: int) -> Iterator[str]:
    """What a process has mapped that has a name still."""
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/maps").open(encoding="utf-8", errors="replace") as maps:
        for line in maps:
            _, found, name = line.rstrip("\n").partition(f" {_FOLDER}/")
            if found and not name.endswith(" (deleted)"):
                yield f"{_FOLDER}/{name}"
