"""Held-out accuracy: greedy, or avg@k at a temperature, through the same servers and verifier as training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gvm_api.spec import EvaluationDataset
from gvm_trainer.generate_api import SamplingParams
from gvm_trainer.prompts import PromptSet
from gvm_trainer.rewards import Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Prompt, Sample
from gvm_trainer.sampling import sample_stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Of one held-out set: the mean over prompts of the share of accepted samples. Unjudged ones count as wrong."""

    accuracy: float
    num_prompts: int
    samples: int
    num_unjudged: int
    num_timeouts: int
    num_errors: int
    response_tokens_mean: float
    tokens_prompt: int
    """Prompt tokens, each prompt counted once: its samples share the prefill."""
    tokens_generated: int


async def evaluate(
    client: RolloutClient,
    verifier: Verifier,
    datasets: Sequence[tuple[EvaluationDataset, PromptSet]],
    *,
    max_response_tokens: int,
    seed: int,
    on_progress: Callable[[float], None],
) -> dict[str, Score]:
    """Score the current policy on every held-out set; `on_progress` is told the fraction of all of them."""
    scores: dict[str, Score] = {}
    for number, (dataset, prompts) in enumerate(datasets):

        def report(fraction: float, done: int = number) -> None:
            on_progress((done + fraction) / len(datasets))

        groups = await sample_stage(
            client,
            verifier,
            prompts.prompts,
            {prompt.id: dataset.samples for prompt in prompts.prompts},
            stage="main",
            seed=seed,
            on_progress=report,
            sampling=SamplingParams(
                max_tokens=dataset.max_response_tokens or max_response_tokens, temperature=dataset.temperature
            ),
        )
        scores[dataset.name] = score(prompts.prompts, groups, samples=dataset.samples)
    return scores


def score(prompts: Sequence[Prompt], groups: Mapping[str, Sequence[Sample]], *, samples: int) -> Score:
    """avg@k of judged groups of k samples each."""
    flat = [sample for prompt in prompts for sample in groups[prompt.id]]
    num_tokens = sum(len(s.completion.token_ids) for s in flat)
    return Score(
        accuracy=sum(s.is_accepted for s in flat) / len(flat),
        num_prompts=len(prompts),
        samples=samples,
        num_unjudged=sum(not s.is_judged for s in flat),
        num_timeouts=sum(s.outcome == "timeout" for s in flat),
        num_errors=sum(s.outcome == "error" for s in flat),
        response_tokens_mean=num_tokens / len(flat),
        tokens_prompt=sum(len(prompt.token_ids) for prompt in prompts),
        tokens_generated=num_tokens,
    )
