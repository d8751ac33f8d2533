"""Writes whole files: a reader, or a crash, finds the old content or the new one and never half of it."""

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file at once; missing folders are made.

    Raises:
        ValueError: it cannot be written.
    """
    # The process's number: two commands may write the same file at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong
            temporary.unlink()
        raise ValueError(f"{path}: cannot be written ({error.strerror}); give another place") from error
