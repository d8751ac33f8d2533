"""GRPO: RAFT++'s clipped surrogate with advantages of either sign, and a second bound where A < 0.

    −Σ_a w_a Σ_t s,  s = min(ρA, clip(ρ)A) for A ≥ 0 and max(min(ρA, clip(ρ)A), cA) for A < 0.
Sources: arXiv 2402.03300, equation 3; dual clip, arXiv 1912.09729, equation 5.
"""

import torch
from torch import Tensor

from gvm_trainer.batching import TrainingBatch
from gvm_trainer.losses.stats import LossStats, token_stats
from gvm_trainer.losses.surrogate import clipped_surrogate, weighted_sum
from gvm_trainer.policy_model import TokenScores


def grpo_loss(
    scores: TokenScores, batch: TrainingBatch, *, clip_low: float, clip_high: float, dual_clip: float
) -> tuple[Tensor, LossStats]:
    """The loss's sum (scalar) and its statistics."""
    surrogate = clipped_surrogate(scores, batch, clip_low=clip_low, clip_high=clip_high)
    advantages = batch.advantages[:, None]
    floor = dual_clip * advantages
    is_floored = (advantages < 0.0) & (surrogate.values < floor)
    values = torch.where(is_floored, floor, surrogate.values)
    stats = token_stats(scores, batch, surrogate.log_ratio, surrogate.clipped | is_floored)
    return -weighted_sum(values, batch), stats
