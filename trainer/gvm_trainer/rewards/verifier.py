"""The verifier: a pool of killable workers in front of a reward.

Owns verdicts, time limits and the pool's life; pebble owns the processes. Knows neither prompts nor samples.
"""

import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pebble import ProcessExpired, ProcessPool

from gvm_api.spec import RewardSpec
from gvm_trainer.rewards.registry import build_reward
from gvm_trainer.rewards.worker import judge, prepare
from gvm_trainer.samples import Outcome

_MEMORY_BYTES = 4 * 1024**3
_CHECK_SECONDS = 0.2
_MOST_BREAKS = 3  # in a row, without a verdict in between


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the verifier says of one completion.

    `reward` is None exactly when `outcome` is "timeout" or "error": no verdict is not a zero. `message` says
    what went wrong.

    Example:
        Verdict(reward=1.0, outcome="accepted")
    """

    reward: float | None
    outcome: Outcome
    message: str = ""

    def __post_init__(self) -> None:
        assert (self.reward is None) == (self.outcome in ("timeout", "error")), "a judged sample has a reward"


class Verifier:
    r"""Scores completions in `reward.workers` processes; one that overruns its `timeout_seconds` is killed.

    Workers are spawned, so they share neither threads nor memory with the trainer. A spawned process imports
    its parent's main module unless that is a package's `__main__`: start the trainer as `python -m package`,
    or keep its main module light, or every worker loads torch.

    Example:
        with Verifier(RewardSpec(type="math")) as verifier:
            verifier.score([(r"so \boxed{5}", "5")]) == [Verdict(reward=1.0, outcome="accepted")]

    Raises:
        ValueError: the reward's pattern or function cannot be used.
    """

    def __init__(self, reward: RewardSpec) -> None:
        self._spec = reward
        self._reward = build_reward(reward)
        self._waiting: dict[Future[Verdict], tuple[str, str]] = {}
        self._lock = threading.RLock()
        self._num_breaks = 0
        self._pool = self._new_pool()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="verifier", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers; what still waits for a verdict is cancelled."""
        with self._lock:
            self._closed.set()
            waiting = list(self._waiting)
        self._watcher.join()
        for future in waiting:
            future.cancel()
        _stop(self._pool)

    @property
    def num_waiting(self) -> int:
        """Completions without a verdict yet."""
        return len(self._waiting)

    def submit(self, completion: str, answer: str) -> Future[Verdict]:
        """Queue one completion. The future holds a verdict, no exception; cancelling it frees the worker.

        Time counts from when a worker takes the completion up, so a long queue times nobody out.

        Raises:
            RuntimeError: the verifier is closed.
        """
        future: Future[Verdict] = Future()
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError("the verifier is closed")
            self._waiting[future] = (completion, answer)
            self._schedule(future)
        return future

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """The verdicts on (completion, answer) pairs, in their order."""
        futures = [self.submit(completion, answer) for completion, answer in pairs]
        return [future.result() for future in futures]

    def _new_pool(self) -> ProcessPool:
        # A user's own function may load a model, so its memory is not ours to bound.
        memory_bytes = None if self._spec.type == "python" else _MEMORY_BYTES
        return ProcessPool(
            max_workers=self._spec.workers,
            initializer=prepare,
            initargs=(self._reward, memory_bytes),
            context=multiprocessing.get_context("spawn"),
        )

    def _schedule(self, future: Future[Verdict]) -> None:
        with suppress(RuntimeError):  # the pool has just broken: the watcher schedules all that waits anew
            task = self._pool.schedule(
                judge, args=(self._reward, *self._waiting[future]), timeout=self._spec.timeout_seconds
            )
            self._tie(task, future)

    def _tie(self, task: Future[tuple[float | None, str]], future: Future[Verdict]) -> None:
        task.add_done_callback(lambda done: self._finish(done, future))
        future.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)

    def _finish(self, task: Future[tuple[float | None, str]], future: Future[Verdict]) -> None:
        """Turn a finished task into its future's verdict. Runs on one of pebble's threads."""
        if not task.cancelled() and isinstance(task.exception(), BrokenProcessPool):
            return  # no verdict yet: the watcher schedules it anew
        with self._lock:
            is_first = self._waiting.pop(future, None) is not None
            self._num_breaks = 0
        if is_first and future.set_running_or_notify_cancel():
            future.set_result(self._verdict(task))

    def _verdict(self, task: Future[tuple[float | None, str]]) -> Verdict:
        name = self._spec.function or f"reward {self._spec.type}"
        error = task.exception()
        if isinstance(error, TimeoutError):
            return _no_verdict("timeout", f"{name} gave no verdict within {self._spec.timeout_seconds:g} s")
        if isinstance(error, ProcessExpired):
            return _no_verdict("error", f"{name} ended its worker with exit code {error.exitcode}")
        if error is not None:
            return _no_verdict("error", f"{name} raised {type(error).__name__}: {error}")
        reward, message = task.result()
        if reward is None:
            return _no_verdict("error", f"{name} {message}")
        is_accepted = reward >= self._spec.accept_threshold
        return Verdict(reward=reward, outcome="accepted" if is_accepted else "rejected")

    def _watch(self) -> None:
        """Replace a broken pool.

        pebble gives a whole pool up when a worker dies between two tasks, and then resolves nothing that was
        still queued: without a watcher, its futures would wait for ever.
        """
        while not self._closed.wait(_CHECK_SECONDS):
            if _is_broken(self._pool):
                broken = self._replace()
                _stop(broken)  # unlocked: its threads may be on their way into _finish

    def _replace(self) -> ProcessPool:
        with self._lock:
            broken, self._pool = self._pool, self._new_pool()
            self._num_breaks += 1
            waiting = list(self._waiting)
            for future in waiting:
                if self._num_breaks < _MOST_BREAKS:
                    self._schedule(future)
                elif self._waiting.pop(future, None) and future.set_running_or_notify_cancel():
                    future.set_result(_no_verdict("error", "the workers die before they take a sample up"))
        return broken


def _no_verdict(outcome: Outcome, message: str) -> Verdict:
    return Verdict(reward=None, outcome=outcome, message=message)


def _is_broken(pool: ProcessPool) -> bool:
    try:
        return not pool.active
    except RuntimeError:  # it could not even start its workers
        return True


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves it unannotated
    pool.join()
