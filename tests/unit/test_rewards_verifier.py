"""The verifier: every way in which a check can fail is an outcome, and the pool outlives it.

Right answer, wrong answer, partial reward | hang, crash, exception, nonsense returned | worker dies idle,
worker cannot start | cancelled, closed.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gvm_api.spec import RewardSpec
from gvm_trainer.rewards import Verdict, Verifier

ACCEPTED = Verdict(reward=1.0, outcome="accepted")
REJECTED = Verdict(reward=0.0, outcome="rejected")
SECONDS = 60  # far above what anything here takes: a future that never resolves fails its test

FUNCTIONS = """
import ctypes, os, threading, time

class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)

def judge(completion, answer):
    if completion == "hang":
        time.sleep(1000)
    if completion == "nap":
        time.sleep(0.6)
    if completion == "exit":
        os._exit(3)
    if completion == "segfault":
        ctypes.string_at(0)
    if completion == "raise":
        raise Unpicklable("no such answer", 2)
    if completion == "quote":
        raise ValueError(answer)
    if completion == "die later":
        threading.Timer(0.05, os._exit, [4]).start()
    if completion.startswith("return "):
        values = {"None": None, "nan": float("nan"), "text": "1.0", "half": 0.5}
        return values[completion.removeprefix("return ")]
    return completion == answer or completion in ("nap", "die later")
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "reward_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "reward_functions:judge"
    sys.modules.pop("reward_functions", None)


def test_score_keeps_the_order_of_its_pairs() -> None:
    with Verifier(RewardSpec(type="exact", pattern=r"#(\d+)$")) as verifier:
        verdicts = verifier.score([(f"#{i}", str(i - i % 2)) for i in range(200)])
    assert verdicts == [ACCEPTED, REJECTED] * 100


def test_math_is_judged_in_the_workers() -> None:
    with Verifier(RewardSpec(type="math", timeout_seconds=30)) as verifier:
        assert verifier.score([(r"\boxed{\frac12}", "0.5"), (r"\boxed{2}", "0.5")]) == [ACCEPTED, REJECTED]


def test_only_the_answer_that_hangs_is_timed_out_and_has_no_reward() -> None:
    hang = r"\boxed{9^{9^{9^{9}}}}"
    with Verifier(RewardSpec(type="math", timeout_seconds=3, workers=2)) as verifier:
        verdicts = verifier.score([(r"\boxed{5}", "5"), (hang, "5"), (r"\boxed{5}", "5"), (r"\boxed{4}", "5")])
    timeout = Verdict(reward=None, outcome="timeout", message="reward math gave no verdict within 3 s")
    assert verdicts == [ACCEPTED, timeout, ACCEPTED, REJECTED]


def test_a_pattern_that_backtracks_for_ever_is_timed_out() -> None:
    spec = RewardSpec(type="regex", pattern="^(a+)+{answer}$", timeout_seconds=1, workers=1)
    with Verifier(spec) as verifier:
        verdicts = verifier.score([("a" * 60, "b"), ("aab", "b")])
    assert [verdict.outcome for verdict in verdicts] == ["timeout", "accepted"]


def test_a_crash_an_exception_and_nonsense_are_errors_and_the_pool_goes_on(functions: str) -> None:
    spec = RewardSpec(type="python", function=functions, timeout_seconds=30, workers=1)
    completions = ["exit", "segfault", "raise", "return None", "return nan", "return text"]
    with Verifier(spec) as verifier:
        verdicts = verifier.score([(completion, "5") for completion in [*completions, "5", "6"]])
    *failed, right, wrong = verdicts
    assert (right, wrong) == (ACCEPTED, REJECTED)
    assert {(verdict.outcome, verdict.reward) for verdict in failed} == {("error", None)}
    expected = [
        "exit code 3",
        "exit code -11",
        "reward_functions:judge raised Unpicklable: no such answer",
        "reward_functions:judge returned None; return a float or a bool",
        "reward_functions:judge returned nan; return a finite number",
        "reward_functions:judge returned '1.0'; return",
    ]
    for verdict, message in zip(failed, expected, strict=True):
        assert message in verdict.message


def test_what_a_function_says_is_one_line_of_text_that_shows_and_not_for_ever(functions: str) -> None:
    spec = RewardSpec(type="python", function=functions, timeout_seconds=30, workers=1)
    with Verifier(spec) as verifier:
        (verdict,) = verifier.score([("quote", "\x1b[2Ja\nb\ud800" + "x" * 1000)])
    begin = "reward_functions:judge raised ValueError: [2Ja b xxx"
    assert verdict.message.startswith(begin)
    assert verdict.message.endswith("xxx…")
    assert len(verdict.message) == len("reward_functions:judge ") + 300


def test_the_threshold_decides_what_a_partial_reward_is(functions: str) -> None:
    for threshold, verdict in (
        (0.5, Verdict(reward=0.5, outcome="accepted")),
        (0.6, Verdict(reward=0.5, outcome="rejected")),
    ):
        spec = RewardSpec(type="python", function=functions, accept_threshold=threshold, workers=1)
        with Verifier(spec) as verifier:
            assert verifier.score([("return half", "5")]) == [verdict]


def test_waiting_in_the_queue_is_not_charged(functions: str) -> None:
    spec = RewardSpec(type="python", function=functions, timeout_seconds=1.5, workers=1)
    with Verifier(spec) as verifier:
        assert verifier.score([("nap", "")] * 4) == [ACCEPTED] * 4  # 2.4 s in all


def test_a_worker_that_dies_between_samples_is_replaced(functions: str) -> None:
    with Verifier(RewardSpec(type="python", function=functions, workers=1)) as verifier:
        for _ in range(2):
            assert verifier.submit("die later", "").result(SECONDS) == ACCEPTED
            time.sleep(0.5)  # it dies idle, which breaks the process pool
            assert verifier.submit("5", "5").result(SECONDS) == ACCEPTED


def test_workers_that_cannot_start_are_an_error_and_no_endless_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reward_in_parent_only.py").write_text(
        "import multiprocessing, os\n"
        "if multiprocessing.current_process().name != 'MainProcess':\n    os._exit(7)\n"
        "def judge(completion, answer):\n    return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Verifier(RewardSpec(type="python", function="reward_in_parent_only:judge", workers=1)) as verifier:
        verdict = verifier.submit("5", "5").result(SECONDS)
    assert (verdict.outcome, verdict.reward) == ("error", None)
    assert "die before" in verdict.message


def test_a_verdict_is_awaited_and_cancelling_frees_the_worker(functions: str) -> None:
    async def run(verifier: Verifier) -> Verdict:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(verifier.submit("hang", "5")), 1.0)
        return await asyncio.wait_for(asyncio.wrap_future(verifier.submit("5", "5")), SECONDS)

    spec = RewardSpec(type="python", function=functions, timeout_seconds=1000, workers=1)
    with Verifier(spec) as verifier:
        assert asyncio.run(run(verifier)) == ACCEPTED


def test_closing_cancels_what_waits_and_takes_no_more(functions: str) -> None:
    verifier = Verifier(RewardSpec(type="python", function=functions, timeout_seconds=1000, workers=1))
    waiting = [verifier.submit("hang", "5"), verifier.submit("5", "5")]
    verifier.close()
    assert [future.cancelled() for future in waiting] == [True, True]
    with pytest.raises(RuntimeError, match="closed"):
        verifier.submit("5", "5")


def _run_python(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), *filter(None, sys.path)])}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_worker_cannot_take_more_memory_than_it_may(tmp_path: Path) -> None:
    code = (
        "from gvm_trainer.rewards.worker import judge, prepare\n"
        "reward = lambda completion, answer: len(bytearray(2**31)) > 0\n"
        "prepare(reward, 2**30)\n"
        "print(judge(reward, '', ''))"
    )
    assert _run_python("-c", code, cwd=tmp_path) == "(None, 'raised MemoryError')"


def test_importing_the_rewards_loads_no_heavy_package(tmp_path: Path) -> None:
    code = (
        "import sys, gvm_trainer.rewards, gvm_trainer.rewards.math; "
        "print(sorted({'torch', 'transformers', 'vllm', 'deepspeed', 'datasets'} & set(sys.modules)))"
    )
    assert _run_python("-c", code, cwd=tmp_path) == "[]"


def test_a_worker_does_not_import_what_the_main_program_has(tmp_path: Path) -> None:
    """A worker that imported its parent's main module would load torch there, at every restart."""
    package = tmp_path / "program"
    package.mkdir()
    (tmp_path / "ballast.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "has_ballast.py").write_text(
        "import sys\ndef judge(completion, answer):\n    return 'ballast' in sys.modules\n"
    )
    (package / "__main__.py").write_text(
        "import ballast\n"
        "from gvm_api.spec import RewardSpec\n"
        "from gvm_trainer.rewards import Verifier\n"
        "with Verifier(RewardSpec(type='python', function='program.has_ballast:judge')) as verifier:\n"
        "    print(verifier.score([('', '')])[0].reward)\n"
    )
    assert _run_python("-m", "program", cwd=tmp_path) == "0.0"
