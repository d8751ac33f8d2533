"""The `exact` reward: the final answer, as a string, equals the expected one.

Knows nothing of mathematics: "1/2" and "0.5" differ here.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExactReward:
    r"""1.0 if the extracted text, stripped, equals the stripped answer, otherwise 0.0.

    With a `pattern` the text is its one group in its last match, and no match is no answer; without one it is
    the whole completion.

    Example:
        ExactReward(r"#(\d+)$")("7+5+0=12;12+510=522;#522", "522") is 1.0

    Raises:
        ValueError: the pattern does not compile, or has another number of groups than one.
    """

    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"reward.pattern: {self.pattern!r} is no regular expression ({error}); correct it"
            ) from error
        if groups != 1:
            raise ValueError(
                f"reward.pattern: {self.pattern!r} has {groups} groups; exact needs one, around the final "
                f"answer, such as '#(\\d+)$' (write (?:...) for the others)"
            )

    def __call__(self, completion: str, answer: str) -> float:
        """Score one completion."""
        found = completion if self.pattern is None else self._last_match(completion)
        return float(found is not None and found.strip() == answer.strip())

    def _last_match(self, completion: str) -> str | None:
        assert self.pattern is not None
        found = None
        for match in re.finditer(self.pattern, completion):
            found = match.group(1)
        return found
