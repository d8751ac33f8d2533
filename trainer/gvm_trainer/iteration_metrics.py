"""What an iteration's samples, plan and updates come to, as metrics.jsonl has it. Pure; `records` explains the keys."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from gvm_api.wire import Plan
from gvm_trainer.engine import UpdateStats
from gvm_trainer.samples import Prompt, Sample, Stage
from gvm_trainer.variance import Variances, gini
from gvm_trainer.verdicts import unjudged_message

STAGES: tuple[Stage, ...] = get_args(Stage)


def sample_metrics(
    block: Sequence[Prompt], groups: Mapping[str, Sequence[Sample]], sampling_seconds: float
) -> dict[str, Any]:
    """Of what was drawn and how it was judged; `sampling_seconds` is both stages' time."""
    samples = [s for prompt in block for s in groups[prompt.id]]
    judged = [s for s in samples if s.is_judged]
    tokens = {
        stage: sum(len(s.completion.token_ids) for s in samples if s.completion.stage == stage) for stage in STAGES
    }
    # A prompt's samples share its prefill.
    prompt_tokens = {
        stage: sum(len(p.token_ids) for p in block if any(s.completion.stage == stage for s in groups[p.id]))
        for stage in STAGES
    }
    seconds = max(sampling_seconds, 1e-9)
    return {
        "accept_rate": sum(s.is_accepted for s in judged) / max(len(judged), 1),
        "reward_mean": float(np.mean([s.reward for s in judged])) if judged else 0.0,
        "response_tokens_mean": float(np.mean([len(s.completion.token_ids) for s in samples])),
        "truncated_fraction": float(np.mean([s.completion.finish_reason == "length" for s in samples])),
        "num_prompts": len(block),
        "num_timeouts": sum(s.outcome == "timeout" for s in samples),
        "num_errors": sum(s.outcome == "error" for s in samples),
        "unjudged_message": unjudged_message(samples),
        "tokens_prompt": sum(len(p.token_ids) for p in block),
        **{f"tokens_prompt_{stage}": num for stage, num in prompt_tokens.items()},
        **{f"tokens_generated_{stage}": num for stage, num in tokens.items()},
        "samples_per_second": len(samples) / seconds,
        "tokens_per_second": sum(tokens.values()) / seconds,
    }


def plan_metrics(
    plan: Plan, pilot_sizes: Mapping[str, int], predicted: Variances, realised: Variances | None
) -> dict[str, Any]:
    """Of the budgets, and of the variance that they lead to."""
    both = [n + pilot_sizes[prompt_id] for prompt_id, n in zip(plan.prompt_ids, plan.sample_sizes, strict=True)]
    return {
        "num_samples_pilot": sum(pilot_sizes.values()),
        "num_samples_main": sum(plan.sample_sizes),
        "predicted_variance": predicted.plan,
        "predicted_variance_uniform": predicted.uniform,
        "realised_variance": realised and realised.plan,
        "realised_variance_uniform": realised and realised.uniform,
        "sample_size_max": max(plan.sample_sizes),
        "sample_size_gini": gini(both),
        "num_at_floor": plan.num_at_floor,
        "num_at_cap": plan.num_at_cap,
    }


def update_metrics(updates: Sequence[UpdateStats]) -> dict[str, float | None]:
    """Means over an iteration's updates; None where there was none, since no prompt gave a gradient."""
    names = {"kl": "approx_kl", "reference_kl": "reference_kl", "entropy": "entropy", "clip_fraction": "clipped"}
    if not updates:
        return dict.fromkeys(("loss", "grad_norm", "learning_rate", *names))
    return {
        "loss": float(np.mean([u.loss for u in updates])),
        "grad_norm": float(np.mean([u.grad_norm for u in updates])),
        "learning_rate": updates[-1].learning_rate,
        **{name: float(np.mean([u.means[source] for u in updates])) for name, source in names.items()},
    }
