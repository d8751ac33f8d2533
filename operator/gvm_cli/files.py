"""Writes whole files: a reader, or a crash, finds the old content or the new one and never half of it."""

import contextlib
import os
from pathlib import Path


def check_page_name(path: Path) -> None:
    """Raise ValueError unless a path can be that of a page: its pictures take its name, with another ending."""
    if path.suffix.lower() != ".html":
        fit = path / "page.html" if path.is_dir() else path.with_suffix(".html")
        raise ValueError(f"--output {str(path)!r}: does not end in .html; name a page, e.g. {fit}")


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
