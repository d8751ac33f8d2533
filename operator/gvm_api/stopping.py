"""When a prompt's sampling stops: a function of its own verdicts, settled before any sample is drawn.

The allocator makes the rules, the learner follows them, and the estimators' exact weights are computed from them.
A rule sees how many samples a prompt has and how many of them were accepted, and nothing else: not the gradients
of this iteration, not the lengths of responses, not the order of arrival. That is what keeps the estimators sound
(see docs/algorithm.md), and it is why no other input can be expressed here.
"""

from typing import Annotated

from pydantic import Field

from gvm_api.base import Contract


class StoppingRule(Contract):
    """Rounds of samples, and for each number of accepted samples the size below which another round is drawn.

    Example:
        StoppingRule(first_round=1, round_size=1, limits=(8,)) draws one sample at a time until the first accepted
        one, eight at most; limits=(8, 4) goes on to a second accepted sample while fewer than four are drawn;
        first_round=0 does not sample the prompt at all; first_round=4, limits=() draws four samples, always.
    """

    first_round: Annotated[int, Field(ge=0)]
    """Samples of the first round; 0 leaves the prompt out of this iteration."""

    round_size: Annotated[int, Field(ge=1)] = 1
    """Samples of every later round."""

    limits: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """With k accepted among n samples another round is drawn while n < limits[k]; never where k has no entry."""

    @property
    def max_samples(self) -> int:
        """The most samples that the rule can draw."""
        if not self.first_round or max(self.limits, default=0) <= self.first_round:
            return self.first_round
        return self.first_round - (self.first_round - max(self.limits)) // self.round_size * self.round_size

    def next_round(self, num_samples: int, num_accepted: int) -> int:
        """Samples to draw next, after a whole number of rounds; 0 stops."""
        if num_samples == 0:
            return self.first_round
        goes_on = num_accepted < len(self.limits) and num_samples < self.limits[num_accepted]
        return self.round_size if goes_on else 0
