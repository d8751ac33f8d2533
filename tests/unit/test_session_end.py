"""The end of a test session: one line per reason for skipping, and no process that outlives its test."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

SUPPORT = Path(__file__).parents[1] / "support"


def run_pytest(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_inner.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "session_end",
        "-p",
        "no:cacheprovider",
        "-q",
        "-rfEX",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_each_reason_for_skipping_is_one_line_however_many_tests_it_skips(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "@pytest.mark.skipif(True, reason='no cluster (set KUBECONFIG)')\n"
        "def test_a(n): pass\n"
        "@pytest.fixture\n"
        "def browser(): pytest.skip('no Chromium')\n"
        "@pytest.mark.parametrize('n', range(2))\n"
        "def test_b(n, browser): pass\n",
    )
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if "skipped:" in line or "SKIPPED" in line] == [
        "3 tests skipped: no cluster (set KUBECONFIG)",
        "2 tests skipped: no Chromium",
    ]


def test_a_process_that_outlives_its_test_fails_the_session_and_is_killed(tmp_path: Path) -> None:
    sleeper = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(3600)']\n"
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid)\n"
    )
    # A grandchild, whose parent is gone: nothing but what it inherited tells where it comes from.
    done = run_pytest(
        tmp_path,
        "import subprocess, sys\n"
        "def test_a():\n"
        f"    code = {sleeper!r}\n"
        "    made = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, start_new_session=True)\n"
        "    open('pid', 'wb').write(made.stdout)\n",
    )
    pid = int((tmp_path / "pid").read_text())
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "left behind" in line]
    assert line == (f"left behind by a test, and killed: {pid} {sys.executable} -c import time; time.sleep(3600)")
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_ends_with_its_test_is_not_reported(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "import subprocess\ndef test_a():\n    subprocess.run(['true'], check=True)\n")
    assert (done.returncode, "left behind" in done.stdout) == (0, False)
