"""RAFT: −Σ_a w_a Σ_t log π(y_t), the M-step on accepted responses (arXiv 2304.06767)."""

from torch import Tensor

from gvm_trainer.batching import TrainingBatch
from gvm_trainer.losses.stats import LossStats, token_stats
from gvm_trainer.losses.surrogate import bounded_log_ratio, weighted_sum
from gvm_trainer.policy_model import TokenScores


def raft_loss(scores: TokenScores, batch: TrainingBatch) -> tuple[Tensor, LossStats]:
    """The loss's sum (scalar) and its statistics."""
    log_ratio = bounded_log_ratio(scores.logprobs, batch.old_logprobs)
    return -weighted_sum(scores.logprobs, batch), token_stats(scores, batch, log_ratio)
