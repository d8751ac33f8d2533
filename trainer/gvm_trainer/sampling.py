"""One stage of the E-step: requests to the servers, and every completion to the verifier as soon as it arrives.

Owns seeds and the identity of a sample. Knows neither allocation nor training.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from gvm_trainer.generate_api import SampleRequest, SamplingParams
from gvm_trainer.rewards import Verdict, Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Completion, Group, Sample, Stage


async def sample_stage(
    client: RolloutClient,
    verifier: Verifier,
    groups: Sequence[Group],
    sizes: Sequence[int],
    *,
    stage: Stage,
    seed: int,
    on_progress: Callable[[float], None],
    sampling: SamplingParams | None = None,
) -> list[Group]:
    """Draw `sizes[i]` samples of the i-th group's prompt and judge them.

    Args:
        groups: of different prompts, with the samples of earlier stages.
        sizes: [m], 0 or more.
        seed: of this stage; a prompt's own follows from it, and its samples count on from there, so that a repeated
            request draws the same sample, and samples of one prompt can travel together.
        on_progress: is told the fraction that is drawn, 0 to 1.
        sampling: the distribution to draw from; None is the training one.

    Returns:
        The groups with the new samples behind the earlier ones, in the order of their index.
    """
    own_seeds = [sample_seed(seed, group.prompt.id) for group in groups]
    requests = [
        SampleRequest(prompt=group.prompt, stage=stage, index=index, seed=own_seed + index)
        for group, own_seed, size in zip(groups, own_seeds, sizes, strict=True)
        for index in range(size)
    ]
    answers = {group.prompt.id: group.prompt.answer for group in groups}
    pending: list[tuple[Completion, asyncio.Future[Verdict]]] = []
    async for completion in client.sample(requests, sampling):
        future = verifier.submit(completion.text, answers[completion.prompt_id])
        pending.append((completion, asyncio.wrap_future(future)))
        on_progress(len(pending) / len(requests))
    verdicts = await asyncio.gather(*(future for _, future in pending))
    drawn: dict[str, list[Sample]] = {group.prompt.id: [] for group in groups}
    for (completion, _), verdict in zip(pending, verdicts, strict=True):
        drawn[completion.prompt_id].append(
            Sample(completion=completion, reward=verdict.reward, outcome=verdict.outcome)
        )
    for own in drawn.values():
        own.sort(key=lambda s: s.completion.index)
    return [group.with_samples(tuple(drawn[group.prompt.id])) for group in groups]


def sample_seed(*parts: object) -> int:
    """A seed from whatever names its use, 30 bits, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 34
