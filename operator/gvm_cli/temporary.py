"""The temporary folder of a run: sockets, spooled weights and launch logs of all its processes, gone with the run.

It is in the system's temporary folder, not in the run directory: the path of a Unix socket has 107 bytes at most.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PREFIX = "gvm-run-"
_OWNER = "owner"
_LONGEST_BASE = 50
"""Bytes; a folder's name and a socket's, which is a UUID and more, have to fit behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemporaryFolder:
    """One run's folder. Its lock tells others that the run lives, and ends with the process, however that ends."""

    path: Path
    _lock: IO[str]

    @classmethod
    def make(cls, run_dir: Path) -> "TemporaryFolder":
        """Make the folder of a run in `run_dir`.

        Raises:
            OSError: the system's temporary folder cannot be written.
        """
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base()))
        lock = (path / _OWNER).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now, since a folder without an owner's name is passed over by `remove_abandoned`.
        lock.write(f"{run_dir.absolute()}\n")
        lock.flush()
        return cls(path=path, _lock=lock)

    def remove(self) -> None:
        """Remove it with all that is in it. Call it when the processes have ended."""
        with contextlib.suppress(OSError):
            _remove(self.path)
        self._lock.close()


def remove_abandoned() -> int:
    """Remove the folders of runs that were killed; how many there were."""
    removed = 0
    for path in _base().glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (path / _OWNER).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_uid == os.getuid() and lock.read():
                _remove(path)
                removed += 1
    return removed


def _remove(path: Path) -> None:
    """What cannot be removed now is left with its owner's name, for the next run to try."""
    for entry in path.iterdir():
        if entry.name == _OWNER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if [entry.name for entry in path.iterdir()] == [_OWNER]:
        (path / _OWNER).unlink()
        path.rmdir()


def _base() -> Path:
    usual = Path(tempfile.gettempdir())
    return usual if len(os.fsencode(usual)) <= _LONGEST_BASE or not Path("/tmp").is_dir() else Path("/tmp")
