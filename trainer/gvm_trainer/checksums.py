"""Whether the files of a directory are still what was written: SHA256SUMS, as sha256sum reads and checks it."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SUMS = "SHA256SUMS"
_AT_ONCE = 8  # files; a thread hashes about 1 GB a second


def write_sums(directory: Path) -> None:
    """Write the checksums of all files in a directory into it."""
    sums = _sums(sorted(path for path in directory.rglob("*") if path.is_file()))
    (directory / _SUMS).write_text("".join(f"{sum_}  {path.relative_to(directory)}\n" for path, sum_ in sums.items()))


def damage(directory: Path) -> str | None:
    """What is wrong: a file that is missing, or has not the content that it had. None also where there are no sums."""
    file = directory / _SUMS
    if not file.exists():  # written by an earlier version: it is taken as it is
        return None
    # Bytes that are no text are damage, too: of the sums themselves.
    written = [line.partition("  ") for line in file.read_text(errors="replace").splitlines()]
    expected = {directory / name: sum_ for sum_, _, name in written if name}
    if not expected:
        return f"{_SUMS} is empty"
    missing = next((path for path in expected if not path.is_file()), None)
    if missing is not None:
        return f"{missing.relative_to(directory)} is missing"
    found = _sums(list(expected))
    changed = [str(path.relative_to(directory)) for path in expected if found[path] != expected[path]]
    return f"{', '.join(changed)} differs from what was written" if changed else None


def _sums(paths: list[Path]) -> dict[Path, str]:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return dict(zip(paths, threads.map(_sha256, paths), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
