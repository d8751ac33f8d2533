"""Truncated importance weights, for servers whose probabilities are not quite the learner's.

    w_t = min(π_learner(y_t)/π_server(y_t), cap), detached; it multiplies a token's term

Servers and learner compute with other kernels and often other number formats, so responses are draws from π_server,
and an update that takes them for the learner's own is off-policy without showing it. Which probabilities of the
learner's:

    losses with a ratio   π_old's. The ratio leads from π_old to π, and w from the server to π_old. Where π_old is the
                          server's own (algorithm.oldLogprobs: rollout), w is 1 by itself: the ratio π/π_server holds
                          the difference already, bounded by its clip on the side of the advantage, and would be
                          counted twice.
    losses without (RAFT) π_old's likewise where the learner has scored it: the likelihood's mean is over what π_old
                          accepts. Otherwise those of the pass itself, which are π_old's in the first update of an
                          iteration and differ later by the updates between.

The cap bounds the variance, and leaves a bias; so does going by token, where only the product over the whole response
would be exact, at a variance that grows with its length. Weights are near 1 unless something is wrong, as the parity
check after each sync sees to it. All logprobs are at temperature 1, so sampling at another temperature, or cut by
top_p, is not what this corrects. The KL term is left alone.

Sources: F. Yao et al., Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (2025); truncation,
E. Ionides (2008). TRL calls the cap vllm_importance_sampling_cap, verl rollout_is_threshold.
"""

from typing import NamedTuple

from torch import Tensor

from gvm_trainer.losses.terms import bounded_log_ratio


class ImportanceWeights(NamedTuple):
    """w [B, L-1] without gradient, 1 off the response, and whether the cap is what counts [B, L-1]."""

    values: Tensor
    truncated: Tensor


def importance_weights(learner_logprobs: Tensor, rollout_logprobs: Tensor, cap: float) -> ImportanceWeights:
    """The weights of tokens by their logprobs, both [B, L-1]."""
    ratio = bounded_log_ratio(learner_logprobs.detach(), rollout_logprobs).exp()
    return ImportanceWeights(ratio.clamp(max=cap), ratio > cap)
