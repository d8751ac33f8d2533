"""Prompts and samples as they travel through the loop: token ids in, token ids out.

Knows neither servers nor tensors. Every sample is identified by (iteration, prompt, stage, index), so that a
retry is recognised and nothing is counted twice.
"""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["pilot", "main"]
Outcome = Literal["accepted", "rejected", "timeout", "error"]
SampleKey = tuple[str, Stage, int]
"""Prompt id, stage and index: what identifies a sample within an iteration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt, rendered and tokenised once, and its verifiable answer.

    Example:
        Prompt(id="17", text="12+9=", token_ids=(1, 5, 6), answer="21")
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled response, exactly as the server drew it.

    `token_ids` are the response's only, the end-of-sequence token included when the policy emitted it;
    `logprobs[t]` is log π(token t | prefix) at temperature 1 under `policy_version` (nats).
    """

    prompt_id: str
    stage: Stage
    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    policy_version: int

    @property
    def key(self) -> SampleKey:
        """What identifies it within an iteration."""
        return (self.prompt_id, self.stage, self.index)

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.logprobs), "one logprob a token"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A completion with its verdict. `outcome` "timeout" is no zero: the verifier never answered.

    A sample whose outcome is "timeout" or "error" has no reward, takes no part in training or in the
    acceptance rate, and is counted apart.
    """

    completion: Completion
    reward: float | None
    outcome: Outcome
    message: str = ""
    """Why there is no verdict, in one line"""

    @property
    def is_accepted(self) -> bool:
        """Whether rejection sampling keeps it."""
        return self.outcome == "accepted"

    @property
    def is_judged(self) -> bool:
        """Whether the verifier gave a verdict."""
        return self.reward is not None
