"""What is said once when all tests have run: what was skipped and why, and which processes a test left behind."""

import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

MARK = "GVM_TEST_SESSION"
"""A variable that every process inherits from the session that started it, however far removed."""
PATIENCE_SECONDS = 10.0
"""A process that was told to end may take a moment."""
_OWN_MARK = pytest.StashKey[str]()
_LEFT_BEHIND = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    os.environ[MARK] = config.stash.setdefault(_OWN_MARK, uuid.uuid4().hex)


def pytest_sessionfinish(session: pytest.Session) -> None:
    started = list(_started_by(session.config.stash[_OWN_MARK]))
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_SECONDS)
    session.config.stash[_LEFT_BEHIND] = [_describe(process) for process in alive]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if alive:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} tests skipped: {reason}")
    for command in config.stash.get(_LEFT_BEHIND, []):
        terminalreporter.write_line(f"left behind by a test, and killed: {command}", red=True)


def _started_by(mark: str) -> Iterator[psutil.Process]:
    """Processes that carry the mark, without ourselves and what multiprocessing keeps for us until we end."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_ours = process.pid == os.getpid() or "multiprocessing.resource_tracker" in " ".join(process.cmdline())
            if process.environ().get(MARK) == mark and not is_ours:
                yield process


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())}"
    return str(process.pid)
