"""How much the accepted responses to a prompt vary under a job's initial policy, by how often the prompt is solved.

Owns the measurement: samples in this process at temperature 1, judged by the job's own reward, and full gradients of
Σ_t log π by autograd, one response at a time. With g the gradient of an accepted response, μ its mean for a prompt and
σ² = E‖g − μ‖², it prints σ² / ‖μ‖² as a ratio of sums over prompts; both are unbiased: ‖μ‖² is the mean of ⟨g_a, g_b⟩
over pairs. Run from the repository's root:
    python -m benchmarks.variety examples/sorting.yaml examples/arithmetic.yaml [--json]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gvm_api.load import load_job
from gvm_api.spec import JobSpec
from gvm_trainer.rewards.registry import build_reward

# Upper ends of the ranges of p that share a line.
BUCKETS = (0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
SAMPLES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptVariety:
    """One prompt: its share of accepted samples, how many of these differ, and its gradient's two parts.

    `variance` (σ²) and `sq_mean` (‖μ‖²) are None with fewer than `--min-accepted` accepted samples.
    """

    p: float
    num_accepted: int
    num_distinct: int
    variance: float | None
    sq_mean: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The prompts of a job with p in (low, high]; the first bucket holds p = 0 as well."""

    job: str
    low: float
    high: float
    share_of_prompts: float
    distinct_of_accepted: float | None
    num_measured: int
    variance_over_sq_mean: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("jobs", type=Path, nargs="+", help="job files; the prompts are those of the first evaluation")
    parser.add_argument("--json", action="store_true", help="one JSON object a line of the table")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--samples", type=int, default=16, help="a prompt")
    parser.add_argument("--min-accepted", type=int, default=4, help="for a gradient to be measured")
    parser.add_argument("--max-gradients", type=int, default=8, help="a prompt")
    arguments = parser.parse_args()
    for path in arguments.jobs:
        torch.manual_seed(0)
        job = load_job(path)
        prompts = measured(job.spec, arguments)
        print(f"{job.metadata.name}: mean p {sum(prompt.p for prompt in prompts) / len(prompts):.3f}")
        for bucket in bucketed(job.metadata.name, prompts):
            print(json.dumps(asdict(bucket)) if arguments.json else described(bucket), flush=True)


def measured(spec: JobSpec, arguments: argparse.Namespace) -> list[PromptVariety]:
    tokenizer: Any = AutoTokenizer.from_pretrained(spec.model.path)
    model = AutoModelForCausalLM.from_pretrained(spec.model.path, dtype=torch.float32)
    reward = build_reward(spec.reward)
    lines = Path(spec.evaluation.datasets[0].path).read_text(encoding="utf-8").splitlines()[: arguments.prompts]
    rows: list[dict[str, str]] = [json.loads(line) for line in lines]
    varieties = []
    per_block = max(SAMPLES_AT_ONCE // arguments.samples, 1)
    for start in range(0, len(rows), per_block):
        block = rows[start : start + per_block]
        prompt_ids = [prompt_tokens(tokenizer, row["prompt"]) for row in block]
        groups = sampled(model, tokenizer, prompt_ids, arguments.samples, spec.rollout.max_response_tokens)
        for row, prompt, responses in zip(block, prompt_ids, groups, strict=True):
            accepted = [
                response
                for response in responses
                if is_accepted(spec, reward, tokenizer.decode(response, skip_special_tokens=True), row["answer"])
            ]
            varieties.append(variety(model, prompt, accepted, arguments))
    return varieties


def is_accepted(spec: JobSpec, reward: Callable[[str, str], object], completion: str, answer: str) -> bool:
    value: Any = reward(completion, answer)
    return float(value) >= spec.reward.accept_threshold


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    chat = [{"role": "user", "content": prompt}]
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    return ids


@torch.inference_mode()
def sampled(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], num_samples: int, max_tokens: int
) -> list[list[list[int]]]:
    """For each prompt `num_samples` responses, each with the token that ends it where it came to an end."""
    padded = tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
    repeated = {name: tensor.repeat_interleave(num_samples, 0) for name, tensor in padded.items()}
    output = model.generate(**repeated, max_new_tokens=max_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    end = tokenizer.eos_token_id
    responses = [
        tokens[: tokens.index(end) + 1] if end in tokens else tokens
        for tokens in output[:, repeated["input_ids"].shape[1] :].tolist()
    ]
    return [responses[i : i + num_samples] for i in range(0, len(responses), num_samples)]


def variety(model: Any, prompt: list[int], accepted: list[list[int]], arguments: argparse.Namespace) -> PromptVariety:
    variance = sq_mean = None
    if len(accepted) >= arguments.min_accepted:
        variance, sq_mean = gradient_moments(model, prompt, accepted[: arguments.max_gradients])
    return PromptVariety(
        p=len(accepted) / arguments.samples,
        num_accepted=len(accepted),
        num_distinct=len(set(map(tuple, accepted))),
        variance=variance,
        sq_mean=sq_mean,
    )


def gradient_moments(model: Any, prompt: list[int], responses: Sequence[list[int]]) -> tuple[float, float]:
    """Unbiased σ² and ‖μ‖² of ∇ Σ_t log π over at least two responses."""
    parameters = list(model.parameters())
    total, sq_norms = torch.zeros(sum(p.numel() for p in parameters)), []
    for response in responses:
        ids = torch.tensor([prompt + response])
        logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        score = logprobs.gather(-1, ids[0, len(prompt) :, None]).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(score, parameters)])
        sq_norms.append(float(gradient @ gradient))
        total += gradient
    k = len(responses)
    sq_mean = (float(total @ total) - sum(sq_norms)) / (k * (k - 1))
    return sum(sq_norms) / k - sq_mean, sq_mean


def bucketed(job: str, prompts: Sequence[PromptVariety]) -> list[Bucket]:
    buckets = []
    for low, high in zip((-1.0, *BUCKETS[:-1]), BUCKETS, strict=True):
        group = [prompt for prompt in prompts if low < prompt.p <= high]
        num_accepted = sum(prompt.num_accepted for prompt in group)
        pairs = [(p.variance, p.sq_mean) for p in group if p.variance is not None and p.sq_mean is not None]
        sq_mean = sum(pair[1] for pair in pairs)
        buckets.append(
            Bucket(
                job=job,
                low=max(low, 0.0),
                high=high,
                share_of_prompts=len(group) / len(prompts),
                distinct_of_accepted=sum(p.num_distinct for p in group) / num_accepted if num_accepted else None,
                num_measured=len(pairs),
                variance_over_sq_mean=sum(pair[0] for pair in pairs) / sq_mean if sq_mean > 0 else None,
            )
        )
    return buckets


def described(bucket: Bucket) -> str:
    distinct = "-" if bucket.distinct_of_accepted is None else f"{bucket.distinct_of_accepted:.2f}"
    ratio = "-" if bucket.variance_over_sq_mean is None else f"{bucket.variance_over_sq_mean:.2f}"
    return (
        f"  p in ({bucket.low:.2f}, {bucket.high:.2f}]  {bucket.share_of_prompts:.3f} of the prompts"
        f"  distinct/accepted {distinct}  variance/|mean|^2 {ratio} ({bucket.num_measured} prompts)"
    )


if __name__ == "__main__":
    main()
