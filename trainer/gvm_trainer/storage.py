"""What is said where the run directory cannot be written: which file, why, how much room it needs, the fix.

Libraries write through code of their own, and tell a full disk as anything: the disk is asked itself then.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gvm_trainer.termination import StorageError

_PROBE_BYTES = 2**20


@contextmanager
def writing(path: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Name what cannot be written, for code that writes `path`, a file or a folder in a folder that is there.

    Args:
        path: what is written.
        needed_bytes: how much it takes up, where that is known.

    Raises:
        StorageError: in the place of an OSError, and of a library's own error on a disk that takes nothing more.
    """
    free = _free_bytes(path.parent)
    try:
        yield
    except StorageError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        fault = error if isinstance(error, OSError) else _fault_of_the_disk(path.parent)
        if fault is None:
            raise
        needed = f"about {_size(needed_bytes)}" if needed_bytes else "more"
        raise StorageError(
            fault.errno,
            f"{path.absolute()} cannot be written: {fault.strerror or fault}. It needs {needed}, and {_size(free)} "
            f"were free. Make room in {path.parent.absolute()} or see to its rights (spec.storage.keepLast says how "
            "many checkpoints stay), and start again: the run goes on from its last checkpoint",
        ) from error


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _fault_of_the_disk(folder: Path) -> OSError | None:
    probe = folder / f".probe-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 2**10:.1f} KiB"
