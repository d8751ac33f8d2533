"""One stage of the E-step: requests to the servers, and every completion to the verifier as soon as it arrives.

Owns seeds and the identity of a sample. Knows neither allocation nor training.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence

from gvm_trainer.generate_api import SampleRequest, SamplingParams
from gvm_trainer.rewards import Verdict, Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Completion, Prompt, Sample, Stage


async def sample_stage(
    client: RolloutClient,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    sizes: Mapping[str, int],
    *,
    stage: Stage,
    seed: int,
    on_progress: Callable[[float], None],
    sampling: SamplingParams | None = None,
) -> dict[str, list[Sample]]:
    """Draw `sizes[id]` samples of every prompt and judge them.

    Args:
        seed: of this stage; a prompt's own follows from it, and its samples count on from there, so that a repeated
            request draws the same sample, and samples of one prompt can travel together.
        on_progress: is told the fraction that is drawn, 0 to 1.
        sampling: the distribution to draw from; None is the training one.

    Returns:
        Samples by prompt id in the order of their index, an entry for every prompt.
    """
    requests = [
        SampleRequest(prompt=prompt, stage=stage, index=index, seed=own_seed + index)
        for prompt, own_seed in ((prompt, sample_seed(seed, prompt.id)) for prompt in prompts)
        for index in range(sizes[prompt.id])
    ]
    answers = {prompt.id: prompt.answer for prompt in prompts}
    pending: list[tuple[Completion, asyncio.Future[Verdict]]] = []
    async for completion in client.sample(requests, sampling):
        future = verifier.submit(completion.text, answers[completion.prompt_id])
        pending.append((completion, asyncio.wrap_future(future)))
        on_progress(len(pending) / len(requests))
    verdicts = await asyncio.gather(*(future for _, future in pending))
    samples: dict[str, list[Sample]] = {prompt.id: [] for prompt in prompts}
    for (completion, _), verdict in zip(pending, verdicts, strict=True):
        samples[completion.prompt_id].append(
            Sample(completion=completion, reward=verdict.reward, outcome=verdict.outcome, message=verdict.message)
        )
    for own in samples.values():
        own.sort(key=lambda s: s.completion.index)
    return samples


def sample_seed(*parts: object) -> int:
    """A seed from whatever names its use, 30 bits, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 34
