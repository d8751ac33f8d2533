"""Processes: started with environment and log, stopped with all that they started, ended after a crash.

Cases of `stop`: obeys SIGTERM · ignores it · a grandchild in a session of its own that ignores it · the leader is
gone already · an interrupt while waiting. Cases of what is not touched: recycled numbers, ourselves.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from gvm_cli import processes
from gvm_cli.processes import Process

FOREVER = "import time\nwhile True: time.sleep(1)"
IGNORING = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
GRANDCHILD = (
    "import subprocess, sys\n"
    f"code = {IGNORING + FOREVER!r}\n"
    "child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
)


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{condition} did not come true in {seconds} s")


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not processes.is_running(psutil.Process(pid))
    return True


def pids_in(log: Path, count: int = 1) -> list[int]:
    """The numbers that a program printed, as soon as all are there."""
    return wait_for(lambda: numbers if len(numbers := [int(n) for n in log.read_text().split()]) >= count else None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def run(code: str, **env: str) -> Process:
        name = f"p{len(started)}"
        started.append(processes.start(name, ["python", "-c", code], env, log=tmp_path / "logs" / f"{name}.log"))
        return started[-1]

    yield run
    processes.stop(started, grace_seconds=0)


def test_output_goes_to_the_log_and_a_restart_appends(tmp_path: Path) -> None:
    log = tmp_path / "new" / "a.log"
    code = "import os, sys; print(os.environ['X'], sys.executable); print('problem', file=sys.stderr)"
    for x in ("1", "2"):
        process = processes.start("a", ["python", "-c", code], {"X": x}, log=log)
        assert process.popen.wait() == 0
        assert process.exit_code == 0
    lines = sorted(log.read_text().splitlines())
    assert lines == [f"1 {sys.executable}", f"2 {sys.executable}", "problem", "problem"]


def test_a_command_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        processes.start("a", ["/no/such/program"], {}, log=tmp_path / "a.log")


def test_variables_in_a_command_are_expanded_as_kubernetes_does() -> None:
    env = {"GVM_PORT": "41001", "a.b": "x"}
    command = ["--port", "$(GVM_PORT)", "http://h:$(GVM_PORT)/$(a.b)", "$(UNKNOWN)", "$$(GVM_PORT)", "$GVM_PORT"]
    assert processes.expand(command, env) == [
        "--port",
        "41001",
        "http://h:41001/x",
        "$(UNKNOWN)",
        "$(GVM_PORT)",
        "$GVM_PORT",
    ]


def test_the_exit_code_is_none_then_the_code_or_the_signal(start: Callable[..., Process]) -> None:
    assert start(FOREVER).exit_code is None
    failed, killed = start("raise SystemExit(3)"), start("import os; os.kill(os.getpid(), 9)")
    assert (failed.popen.wait(), killed.popen.wait()) == (3, -9)
    assert (failed.exit_code, killed.exit_code) == (3, -9)


def test_the_last_lines_of_a_log_are_its_end_however_long_it_is(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    process = processes.start("a", ["python", "-c", ""], {}, log=log)
    process.popen.wait()
    assert process.last_lines() == ""
    log.write_bytes(b"".join(b"line %d \xff\n" % i for i in range(100_000)))
    assert process.last_lines(2) == "line 99998 \ufffd\nline 99999 \ufffd"
    assert len(process.last_lines().splitlines()) == 20


def test_a_process_is_asked_to_end_first(start: Callable[..., Process]) -> None:
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('bye'))\nprint(1, flush=True)\n"
    process = start(code + FOREVER)
    pids_in(process.log)
    processes.stop([process])
    assert process.exit_code == 1
    assert "bye" in process.log.read_text()


def test_one_that_ignores_the_request_is_killed(start: Callable[..., Process]) -> None:
    process = start(IGNORING + "print(1, flush=True)\n" + FOREVER)
    pids_in(process.log)
    processes.stop([process], grace_seconds=0.2)
    assert process.exit_code == -signal.SIGKILL


def test_a_stopped_family_is_gone_with_grandchildren_in_sessions_of_their_own(start: Callable[..., Process]) -> None:
    process = start(GRANDCHILD + FOREVER)
    (grandchild,) = pids_in(process.log)
    assert {m.pid for m in process.family()} == {process.popen.pid, grandchild}
    processes.stop([process], grace_seconds=5)
    assert process.exit_code == -signal.SIGTERM
    assert is_gone(grandchild)
    assert process.family() == set()


def test_a_grandchild_in_the_leader_s_session_is_gone_though_the_leader_crashed_unseen(
    start: Callable[..., Process],
) -> None:
    code = GRANDCHILD.replace("start_new_session=True", "start_new_session=False")
    process = start(code + "import os; os.kill(os.getpid(), 9)")
    (grandchild,) = pids_in(process.log)
    assert process.popen.wait() == -9
    assert not is_gone(grandchild)
    processes.stop([process], grace_seconds=0.2)
    assert is_gone(grandchild)


def test_a_grandchild_that_was_seen_is_gone_though_the_leader_crashed(start: Callable[..., Process]) -> None:
    process = start(GRANDCHILD + FOREVER)
    (grandchild,) = pids_in(process.log)
    assert len(process.family()) == 2
    process.popen.kill()
    process.popen.wait()
    assert {m.pid for m in process.family()} == {grandchild}
    processes.stop([process], grace_seconds=0.2)
    assert is_gone(grandchild)


def test_an_interrupt_while_stopping_ends_all_at_once(start: Callable[..., Process]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    stubborn = [start(IGNORING + "print(1, flush=True)\n" + FOREVER) for _ in range(2)]
    for process in stubborn:
        pids_in(process.log)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            processes.stop(stubborn, grace_seconds=3600)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [process.exit_code for process in stubborn] == [-9, -9]


def test_stopping_what_has_ended_does_nothing(start: Callable[..., Process]) -> None:
    process = start("")
    process.popen.wait()
    processes.stop([process])
    processes.stop([process])
    assert process.exit_code == 0


def test_a_recycled_number_is_not_signalled(start: Callable[..., Process]) -> None:
    other = start(FOREVER)
    recycled = Process(name="x", popen=SimpleNamespace(pid=other.popen.pid, returncode=0), log=other.log)  # type: ignore[arg-type]  # as much of Popen as is read
    recycled.signal_group(signal.SIGKILL)
    assert recycled._session() == set()
    time.sleep(0.1)
    assert other.exit_code is None


def test_memory_counts_the_whole_family(start: Callable[..., Process]) -> None:
    alone, family = start(FOREVER), start(GRANDCHILD + "x = bytearray(50_000_000)\n" + FOREVER)
    pids_in(family.log)
    wait_for(lambda: processes.resident_bytes([family]) > 50_000_000)
    assert 0 < processes.resident_bytes([alone]) < 50_000_000
    alone.popen.kill()
    alone.popen.wait()
    assert processes.resident_bytes([alone]) == 0


def test_what_was_recorded_and_still_runs_is_ended_with_its_children(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    process, path = start("import time; time.sleep(0.5)\n" + GRANDCHILD + FOREVER), tmp_path / "processes.json"
    processes.record([process], path)
    assert [entry["pid"] for entry in json.loads(path.read_text())["processes"]] == [process.popen.pid]
    (later,) = pids_in(process.log)
    assert processes.end_recorded(path) == 2
    assert process.popen.wait() == -9
    assert is_gone(later)
    assert not path.exists()
    assert processes.end_recorded(path) == 0, "no file, nobody left"


def test_a_recycled_number_and_ourselves_are_not_ended(tmp_path: Path, start: Callable[..., Process]) -> None:
    other, path = start(FOREVER), tmp_path / "processes.json"
    born = psutil.Process(other.popen.pid).create_time()
    we = psutil.Process()
    entries = [
        {"pid": other.popen.pid, "create_time": born - 3600},
        {"pid": we.pid, "create_time": we.create_time() + 3600},
        {"pid": 2**22 + 1, "create_time": 0.0},
    ]
    path.write_text(json.dumps({"processes": entries, "segments": []}))
    assert processes.end_recorded(path) == 0
    assert other.exit_code is None


def test_a_clock_that_was_set_meanwhile_does_not_hide_a_leftover(tmp_path: Path, start: Callable[..., Process]) -> None:
    process, path = start(FOREVER), tmp_path / "processes.json"
    born = psutil.Process(process.popen.pid).create_time()
    entry = {"pid": process.popen.pid, "create_time": born + 1.0}
    path.write_text(json.dumps({"processes": [entry], "segments": []}))
    assert processes.end_recorded(path) == 1
    assert process.popen.wait() == -9


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": [{"pid": "x"}], "segments": []}'])
def test_a_record_that_was_damaged_is_named_and_no_longer_in_the_way(tmp_path: Path, text: str) -> None:
    path = tmp_path / "processes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"processes\.json: was damaged, so processes that a killed run left, if any"):
        processes.end_recorded(path)
    assert processes.end_recorded(path) == 0


SEGMENT = (
    "from multiprocessing import resource_tracker, shared_memory\n"
    "segment = shared_memory.SharedMemory(create=True, size=64)\n"
    "resource_tracker.unregister(segment._name, 'shared_memory')\n"  # nobody is left to clear up, as after kill -9
    "print(segment.name, flush=True)\n"
)
on_linux = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")


def segment_of(process: Process) -> Path:
    return Path("/dev/shm", wait_for(process.log.read_text).strip())


@on_linux
def test_shared_memory_goes_with_its_process_unless_another_has_it_too(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    owner = start(SEGMENT + FOREVER)
    name = segment_of(owner)
    borrow = f"from multiprocessing import shared_memory\nkept = shared_memory.SharedMemory({name.name!r})\n"
    borrower = start(borrow + "print(1, flush=True)\n" + FOREVER)
    pids_in(borrower.log)
    processes.stop([owner])
    assert name.exists()
    processes.stop([borrower])
    assert not name.exists()


@on_linux
def test_shared_memory_that_was_recorded_is_removed_after_a_crash(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    process, path = start(SEGMENT + FOREVER), tmp_path / "processes.json"
    name = segment_of(process)
    processes.record([process], path)
    process.popen.kill()
    process.popen.wait()
    assert name.exists()
    processes.end_recorded(path)
    assert not name.exists()


@on_linux
def test_a_recorded_path_elsewhere_is_not_removed(tmp_path: Path) -> None:
    path, file = tmp_path / "processes.json", tmp_path / "mine"
    file.write_text("")
    path.write_text(json.dumps({"processes": [], "segments": [str(file), f"/dev/shm/../..{file}"]}))
    processes.end_recorded(path)
    assert file.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('no such\\nmodel')", "p0 ended with exit code 1: ValueError: no such"),
        ("print('loading', flush=True); raise SystemExit(3)", "p0 ended with exit code 3: loading"),
        ("raise SystemExit(3)", "p0 ended with exit code 3"),
        ("import os; print('OSError: old'); os.kill(os.getpid(), 9)", "p0 was ended by SIGKILL"),
    ],
)
def test_how_a_process_ended_is_told_in_a_line(start: Callable[..., Process], code: str, words: str) -> None:
    process = start(code)
    process.popen.wait()
    assert process.end_in_words() == f"{words}; see {process.log}"


def test_only_its_own_part_of_the_log_tells_how_it_ended(tmp_path: Path) -> None:
    for code in ("raise ValueError('old')", "raise SystemExit(3)"):
        process = processes.start("a", ["python", "-c", code], {}, log=tmp_path / "a.log")
        process.popen.wait()
    assert process.end_in_words() == f"a ended with exit code 3; see {tmp_path}/a.log"


RUNNER = """
import sys, time
from pathlib import Path
from gvm_cli import processes
p = processes.start("child", ["python", "-c", sys.argv[1]], {}, log=Path(sys.argv[2]))
time.sleep(3600)
"""


def test_children_end_when_their_runner_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = "import os; print(os.getpid(), flush=True)\n" + FOREVER
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, code, str(log)], env=dict(os.environ))
    try:
        wait_for(log.exists)
        (child,) = pids_in(log)
        assert not is_gone(child)
    finally:
        runner.kill()
        runner.wait()
    wait_for(lambda: is_gone(child))
