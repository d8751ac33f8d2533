"""What runs inside a verifier's worker process. Knows nothing of the pool or of thresholds."""

import math
import resource
import signal

from gvm_trainer.rewards.registry import Reward

_LONGEST_MESSAGE = 500  # characters: a user's exception may quote the whole completion


def prepare(reward: Reward, memory_bytes: int | None) -> None:
    """Start a worker: having received `reward` it has imported what that needs, outside any sample's time.

    `memory_bytes` bounds the worker's address space, so that an answer such as 9^9^9^9 cannot take the
    machine's memory before its time is up. None sets no bound.
    """
    assert callable(reward)
    # pebble's own handler waits for the interpreter, which a long integer power or a regex may not give back.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def judge(reward: Reward, completion: str, answer: str) -> tuple[float | None, str]:
    """Score one completion: (reward, "") or, where the reward function failed, (None, what went wrong).

    Exceptions end here, as text, because a user's exception class need not survive pickling.
    """
    try:
        return _as_reward(reward(completion, answer)), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the outermost frame around a user's function
        return None, f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]


def _as_reward(value: object) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"the reward function returned {value!r}; return a float or a bool")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the reward function returned {number}; return a finite number")
    return number
