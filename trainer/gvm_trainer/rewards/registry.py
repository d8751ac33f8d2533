"""Which reward the specification names. Knows nothing of processes."""

from collections.abc import Callable
from typing import assert_never

from gvm_api.spec import RewardSpec
from gvm_trainer.rewards.exact import ExactReward
from gvm_trainer.rewards.python import PythonReward
from gvm_trainer.rewards.regex import RegexReward

Reward = Callable[[str, str], object]
"""reward(completion, answer) → a float or a bool. Must be picklable: it is sent to the workers."""


def build_reward(spec: RewardSpec) -> Reward:
    """The reward of a specification.

    Raises:
        ValueError: a pattern or function that cannot be used; the message names field, value and fix.
    """
    match spec.type:
        case "math":
            # Here, as it loads sympy, which the other rewards have no use for.
            from gvm_trainer.rewards.math import MathReward

            return MathReward()
        case "exact":
            return ExactReward(spec.pattern)
        case "regex":
            return RegexReward(spec.pattern)
        case "python":
            return PythonReward(spec.function)
        case _:
            assert_never(spec.type)
