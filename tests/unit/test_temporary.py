"""Temporary folders: made short, removed at the end, and by the next run where theirs was killed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gvm_cli.temporary import TemporaryFolder, remove_abandoned

KILLED = """
import os, sys
from pathlib import Path
from gvm_cli.temporary import TemporaryFolder
folder = TemporaryFolder.make(Path("runs/a"))
(folder.path / "weights").mkdir()
(folder.path / "weights" / "shard").write_text("much")
(folder.path / "link").symlink_to(sys.argv[1])
print(folder.path, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, an own one with a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_folder_and_what_is_in_it_are_removed(base: Path, tmp_path: Path) -> None:
    folder = TemporaryFolder.make(tmp_path)
    assert folder.path.parent == base
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "deep").mkdir()
    (folder.path / "deep" / "file").write_text("x")
    folder.remove()
    assert list(base.iterdir()) == []
    folder.remove()


def test_what_a_killed_run_left_is_removed_but_nothing_of_a_run_that_lives(base: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    command = [sys.executable, "-c", KILLED, str(kept)]
    killed = subprocess.run(command, env={"TMPDIR": str(base), "PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    left = Path(killed.stdout.decode().strip())
    assert left.parent == base
    mine, others = TemporaryFolder.make(tmp_path), base / "gvm-run-without-an-owner"
    others.mkdir()
    assert remove_abandoned() == 1
    assert sorted(base.iterdir()) == sorted([mine.path, others])
    assert (kept / "file").exists(), "links are not followed"
    assert remove_abandoned() == 0
    mine.remove()


def test_sockets_fit_though_the_system_s_folder_has_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = TemporaryFolder.make(tmp_path)
    try:
        assert len(str(folder.path / "0efc0f9c-867e-408a-90b7-57170ded1610")) <= 90
    finally:
        folder.remove()
    assert not folder.path.exists()
