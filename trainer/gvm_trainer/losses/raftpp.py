"""RAFT++: −Σ_a w_a Σ_t min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)A), ρ = π/π_old, on accepted responses (A = 1).

Source: arXiv 2504.11343, RAFT with importance sampling and clipping.
"""

from torch import Tensor

from gvm_trainer.batching import TrainingBatch
from gvm_trainer.losses.stats import LossStats, token_stats
from gvm_trainer.losses.surrogate import clipped_surrogate, weighted_sum
from gvm_trainer.policy_model import TokenScores


def raftpp_loss(
    scores: TokenScores, batch: TrainingBatch, *, clip_low: float, clip_high: float
) -> tuple[Tensor, LossStats]:
    """The loss's sum (scalar) and its statistics."""
    surrogate = clipped_surrogate(scores, batch, clip_low=clip_low, clip_high=clip_high)
    stats = token_stats(scores, batch, surrogate.log_ratio, surrogate.clipped)
    return -weighted_sum(surrogate.values, batch), stats
