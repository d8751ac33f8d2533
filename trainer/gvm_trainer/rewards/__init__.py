"""Rewards: what a completion is worth, judged in worker processes that can be killed.

Completions are a policy's untrusted text: a check may hang, crash or eat memory. Loads neither torch nor
vLLM, so that a worker starts quickly and stays small.
"""

from gvm_trainer.rewards.lines import score_lines
from gvm_trainer.rewards.verifier import Verdict, Verifier

__all__ = ["Verdict", "Verifier", "score_lines"]
