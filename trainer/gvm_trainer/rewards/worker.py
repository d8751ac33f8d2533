"""What runs inside a verifier's worker process. Knows nothing of the pool or of thresholds."""

import math
import resource
import signal

from gvm_trainer.rewards.registry import Reward

_LONGEST_MESSAGE = 300  # characters: a user's exception may quote the whole completion


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
    """Score one completion: (reward, "") or, where the reward function failed, (None, what it did).

    Exceptions end here, as one line of text, because a user's exception class need not survive pickling, and what it
    says may quote a completion with anything in it.
    """
    try:
        return _as_reward(reward(completion, answer))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the outermost frame around a user's function
        text = str(error)
        return None, _line(f"raised {type(error).__name__}" + (f": {text}" if text else ""))


def _as_reward(value: object) -> tuple[float | None, str]:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return None, _line(f"returned {value!r}; return a float or a bool")
    number = float(value)
    if not math.isfinite(number):
        return None, f"returned {number}; return a finite number"
    return number, ""


def _line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 1]}…"
