"""The ratio's clipped surrogate, shared by the algorithms that have one."""

from typing import NamedTuple

import torch
from torch import Tensor

from gvm_trainer.batching import TrainingBatch
from gvm_trainer.policy_model import TokenScores

# e^20 is far outside any clip range; without a bound a runaway ratio is inf, and inf · 0 is no number.
_MAX_LOG_RATIO = 20.0


class Surrogate(NamedTuple):
    """min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high)A) [B, L-1], and what it came from.

    unclipped is ρA, clipped [B, L-1] whether the bound is what counts, log_ratio log ρ.
    """

    values: Tensor
    clipped: Tensor
    log_ratio: Tensor


def clipped_surrogate(scores: TokenScores, batch: TrainingBatch, *, clip_low: float, clip_high: float) -> Surrogate:
    """PPO's objective a token (arXiv 1707.06347, equation 7), with bounds of their own on either side."""
    log_ratio = bounded_log_ratio(scores.logprobs, batch.old_logprobs)
    advantages = batch.advantages[:, None]
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return Surrogate(torch.minimum(unclipped, bounded), (unclipped > bounded).detach(), log_ratio)


def bounded_log_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """log of the ratio of two probabilities, bounded by ±20."""
    return (numerator - denominator).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def weighted_sum(values: Tensor, batch: TrainingBatch) -> Tensor:
    """Σ_a weight_a Σ_t values[a, t] over response tokens."""
    mask = batch.tokens.response_mask[:, 1:]
    return ((values * mask).sum(dim=1) * batch.weights).sum()
