"""The losses of the algorithms, one a file with its formula, and the choice among them by name.

Each is a sum Σ_a weight_a Σ_t ℓ(a, t) over a micro-batch: sums over micro-batches and ranks give the same
total however a mini-batch is split. Knows neither how weights came about nor how gradients are reduced.
"""

from dataclasses import dataclass

from torch import Tensor

from gvm_trainer.advantages import Algorithm
from gvm_trainer.batching import TrainingBatch
from gvm_trainer.losses.grpo import grpo_loss
from gvm_trainer.losses.raft import raft_loss
from gvm_trainer.losses.raftpp import raftpp_loss
from gvm_trainer.losses.reference_kl import reference_kl_loss
from gvm_trainer.losses.stats import LossStats
from gvm_trainer.policy_model import TokenScores

__all__ = ["LossStats", "PolicyLoss", "grpo_loss", "raft_loss", "raftpp_loss", "reference_kl_loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLoss:
    """An algorithm's loss with its constants, and the pull to a reference policy."""

    algorithm: Algorithm
    clip_low: float = 0.2
    """ε of the ratio's lower bound 1 − ε"""
    clip_high: float = 0.2
    """ε of the ratio's upper bound 1 + ε"""
    dual_clip: float = 3.0
    """c > 1: where A < 0 the ratio counts no more than c times"""
    kl_coefficient: float = 0.0
    """what the KL divergence from the reference policy is multiplied by, with each sample's weight"""

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high", "kl_coefficient"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        if self.clip_low >= 1.0:
            raise ValueError(f"clip_low is {self.clip_low}: give less than 1, or no ratio is too small")
        if self.dual_clip <= 1.0:
            raise ValueError(f"dual_clip is {self.dual_clip}: give more than 1")

    def __call__(
        self, scores: TokenScores, batch: TrainingBatch, reference_logprobs: Tensor | None = None
    ) -> tuple[Tensor, LossStats]:
        """The loss's sum over the micro-batch (scalar) and detached statistics.

        Args:
            scores: of the batch under the policy in training, [B, L-1].
            batch: tokens, old logprobs, advantages and weights.
            reference_logprobs: [B, L-1], needed where `kl_coefficient` is not 0.
        """
        if self.kl_coefficient > 0.0 and reference_logprobs is None:
            raise ValueError("kl_coefficient is not 0: give reference_logprobs")
        loss, stats = self._policy_term(scores, batch)
        if reference_logprobs is None:
            return loss, stats
        penalty, stats = reference_kl_loss(scores, batch, reference_logprobs, stats)
        return loss + self.kl_coefficient * penalty, stats

    def _policy_term(self, scores: TokenScores, batch: TrainingBatch) -> tuple[Tensor, LossStats]:
        low, high = self.clip_low, self.clip_high
        if self.algorithm == "raft":
            return raft_loss(scores, batch)
        if self.algorithm == "raftpp":
            return raftpp_loss(scores, batch, clip_low=low, clip_high=high)
        return grpo_loss(scores, batch, clip_low=low, clip_high=high, dual_clip=self.dual_clip)
