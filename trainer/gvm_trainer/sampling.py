"""The E-step's stream of samples: every prompt draws its rounds by its own rule, and waits for nobody else.

Owns seeds, the identity of a sample, and the order within a prompt. Knows neither allocation nor training. What is
drawn depends on seeds, rules and verdicts only, in whatever order servers and verifiers answer: a round is decided
when all samples of the rounds before it have their verdicts, and a sample that was started is never given up.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gvm_api.stopping import StoppingRule
from gvm_trainer.generate_api import SampleRequest
from gvm_trainer.rewards import Verifier
from gvm_trainer.samples import Completion, Prompt, Sample, Stage


class Source(Protocol):
    """Where completions come from."""

    async def draw(self, request: SampleRequest) -> Completion:
        """The sample that the request names; every call draws it once."""
        ...


async def sample_by_rules(
    source: Source,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    rules: Mapping[str, StoppingRule],
    *,
    stage: Stage,
    seed: int,
    on_progress: Callable[[float], None],
) -> dict[str, list[Sample]]:
    """Draw and judge the samples that the prompts' rules ask for.

    Args:
        rules: by prompt id, one for every prompt.
        stage: which the samples belong to.
        seed: of this stage; a prompt's own follows from it, and its samples count on from there, so that a repeated
            request draws the same sample.
        on_progress: is told the fraction of prompts that are done, 0 to 1.

    Returns:
        Samples by prompt id in the order of their index, an entry for every prompt.
    """
    done = 0

    async def follow(prompt: Prompt) -> list[Sample]:
        nonlocal done
        samples = await _Draws(source=source, verifier=verifier, prompt=prompt, stage=stage, seed=seed).follow(
            rules[prompt.id]
        )
        done += 1
        on_progress(done / len(prompts))
        return samples

    tasks = [asyncio.create_task(follow(prompt)) for prompt in prompts]
    try:
        return dict(zip((p.id for p in prompts), await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draws:
    """The samples of one prompt."""

    source: Source
    verifier: Verifier
    prompt: Prompt
    stage: Stage
    seed: int

    async def follow(self, rule: StoppingRule) -> list[Sample]:
        samples: list[Sample] = []
        # A sample without a verdict counts as drawn and not as accepted, so that a broken verifier ends, too.
        while more := rule.next_round(len(samples), sum(s.is_accepted for s in samples)):
            start = len(samples)
            samples += await asyncio.gather(*(self._sample(index) for index in range(start, start + more)))
        return samples

    async def _sample(self, index: int) -> Sample:
        prompt = self.prompt
        completion = await self.source.draw(
            SampleRequest(prompt=prompt, stage=self.stage, index=index, seed=sample_seed(self.seed, prompt.id) + index)
        )
        verdict = await asyncio.wrap_future(self.verifier.submit(completion.text, prompt.answer))
        return Sample(completion=completion, reward=verdict.reward, outcome=verdict.outcome)


def sample_seed(*parts: object) -> int:
    """A seed from whatever names its use, 30 bits, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 34
