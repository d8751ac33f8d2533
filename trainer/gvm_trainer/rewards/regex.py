"""The `regex` reward: a pattern, with the answer put in, is found in the completion."""

import re
from dataclasses import dataclass

PLACEHOLDER = "{answer}"


@dataclass(frozen=True, slots=True)
class RegexReward:
    r"""1.0 if `pattern` is found anywhere in the completion, otherwise 0.0.

    `{answer}` in the pattern stands for the prompt's answer, taken literally (escaped).

    Example:
        RegexReward(r"= {answer}\b")("so 2+3 = 5.", "5") is 1.0

    Raises:
        ValueError: the pattern is missing or does not compile.
    """

    pattern: str | None

    def __post_init__(self) -> None:
        if self.pattern is None:
            raise ValueError("reward.pattern: missing; type regex needs one, such as '= {answer}$'")
        try:
            re.compile(self.pattern.replace(PLACEHOLDER, "0"))
        except re.error as error:
            raise ValueError(
                f"reward.pattern: {self.pattern!r} is no regular expression ({error}); correct it"
            ) from error

    def __call__(self, completion: str, answer: str) -> float:
        """Score one completion."""
        assert self.pattern is not None
        return float(re.search(self.pattern.replace(PLACEHOLDER, re.escape(answer)), completion) is not None)
