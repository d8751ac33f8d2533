"""The E-step of one iteration: pilot, gradient norms, plan, second stage, scores. Every outcome goes to the allocator.

Reads straight down; every step is another module's. Trains nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gvm_api import wire
from gvm_api.spec import JobSpec
from gvm_trainer import allocation, variance
from gvm_trainer.allocation import AllocatorClient
from gvm_trainer.collective import Collective
from gvm_trainer.engine import SequenceScore, TokenSequence
from gvm_trainer.estimator import realised_variances, variance_coefficients
from gvm_trainer.records import Records
from gvm_trainer.reporter import Reporter
from gvm_trainer.rewards import Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Prompt, Sample, SampleKey, Stage
from gvm_trainer.sampling import sample_seed, sample_stage
from gvm_trainer.stopwatch import Stopwatch

Groups = dict[str, list[Sample]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """What an E-step brings: the samples of every prompt, judged and scored, and how they were planned."""

    groups: Groups
    plan: wire.Plan
    pilot_sizes: dict[str, int]
    scored: dict[SampleKey, SequenceScore]
    realised: variance.Variances | None

    @property
    def samples(self) -> list[Sample]:
        """Those of all prompts."""
        return [sample for own in self.groups.values() for sample in own]


@dataclass(frozen=True, kw_only=True, slots=True)
class EStep:
    """Draws and judges an iteration's samples."""

    spec: JobSpec
    client: RolloutClient
    verifier: Verifier
    allocator: AllocatorClient
    collective: Collective
    records: Records
    reporter: Reporter

    async def run(
        self, block: Sequence[Prompt], *, iteration: int, policy_version: int, seconds: Stopwatch
    ) -> Gathered:
        """Sample a block of prompts under the policy of `policy_version`."""
        with seconds.of("pilot"):
            known = await self.allocator.posterior([p.id for p in block])
            pilot_sizes = allocation.pilot_sizes(block, known, self.spec.allocation)
            groups = await self._sample(block, pilot_sizes, "pilot", iteration)
        norms: dict[SampleKey, float] = {}
        with seconds.of("grad_norms"):
            self.reporter.stage("grad_norms")
            if accepted := [s for own in groups.values() for s in own if s.is_accepted]:
                scores, _ = await self._score(block, accepted, None, with_norms=True)
                norms = _norms({s.completion.key: score for s, score in zip(accepted, scores, strict=True)})
        with seconds.of("plan"):
            await self._observe(block, groups, "pilot", norms, iteration, policy_version)
            plan = await self._plan(block, pilot_sizes, iteration, policy_version)
            self.records.write_plan(iteration, plan, [pilot_sizes[p.id] for p in block])
            self.reporter.planned(plan, pilot_sizes)
        with seconds.of("main"):
            sizes = dict(zip(plan.prompt_ids, plan.sample_sizes, strict=True))
            for prompt_id, own in (await self._sample(block, sizes, "main", iteration)).items():
                groups[prompt_id] += own
        with seconds.of("score"):
            scored, realised = await self._score_for_training(block, groups, plan, iteration)
            await self._observe(block, groups, "main", norms | _norms(scored), iteration, policy_version)
        return Gathered(groups=groups, plan=plan, pilot_sizes=pilot_sizes, scored=scored, realised=realised)

    async def _sample(self, block: Sequence[Prompt], sizes: Mapping[str, int], stage: Stage, iteration: int) -> Groups:
        self.reporter.stage(stage)
        if not any(sizes.values()):
            return {prompt.id: [] for prompt in block}
        return await sample_stage(
            self.client,
            self.verifier,
            block,
            sizes,
            stage=stage,
            seed=sample_seed(self.spec.algorithm.seed, iteration, stage),
            on_progress=self.reporter.fraction,
        )

    async def _observe(
        self,
        block: Sequence[Prompt],
        groups: Groups,
        stage: Stage,
        norms: Mapping[SampleKey, float],
        iteration: int,
        policy_version: int,
    ) -> None:
        outcomes = allocation.outcomes(block, groups, stage, norms)
        if outcomes:
            await self.allocator.observe(
                wire.ObserveRequest(
                    iteration=iteration, key=stage, stage=stage, policy_version=policy_version, outcomes=outcomes
                )
            )

    async def _plan(
        self, block: Sequence[Prompt], pilot_sizes: Mapping[str, int], iteration: int, policy_version: int
    ) -> wire.Plan:
        self.reporter.stage("plan")
        return await self.allocator.plan(
            wire.PlanRequest(
                iteration=iteration,
                key="plan",
                policy_version=policy_version,
                prompt_ids=tuple(p.id for p in block),
                budget=allocation.main_budget(len(block), pilot_sizes, self.spec.allocation),
                pooled_sizes=tuple(pilot_sizes.values()) if self.spec.pilot_reuse == "pooled" else (),
                gradient_source=self.spec.allocation.grad_norm.source,
            )
        )

    async def _score_for_training(
        self, block: Sequence[Prompt], groups: Groups, plan: wire.Plan, iteration: int
    ) -> tuple[dict[SampleKey, SequenceScore], variance.Variances | None]:
        """One pass over all that will be trained on: old logprobs, gradient norms, the realised variance."""
        spec = self.spec
        self.reporter.stage("score")
        measures = spec.allocation.measure_variance
        needs_norms = allocation.needs_grad_norms(spec.allocation)
        chosen = [s for own in groups.values() for s in own if s.is_accepted or self._is_trained_when_rejected(s)]
        if not chosen or (not needs_norms and spec.algorithm.old_logprobs == "rollout"):
            return {}, None
        generator = np.random.default_rng((spec.algorithm.seed, iteration))
        coefficients = (
            variance_coefficients(spec, block, groups, plan, chosen, generator=generator) if measures else None
        )
        scores, sums = await self._score(block, chosen, coefficients, with_norms=needs_norms)
        realised = realised_variances(sums) if measures else None
        return {s.completion.key: score for s, score in zip(chosen, scores, strict=True)}, realised

    def _is_trained_when_rejected(self, sample: Sample) -> bool:
        return self.spec.algorithm.name == "grpo" and sample.is_judged

    async def _score(
        self, block: Sequence[Prompt], samples: Sequence[Sample], coefficients: np.ndarray | None, *, with_norms: bool
    ) -> tuple[list[SequenceScore], list[float]]:
        prompts = {p.id: p for p in block}
        sequences = [
            TokenSequence(
                prompt_token_ids=prompts[s.completion.prompt_id].token_ids, response_token_ids=s.completion.token_ids
            )
            for s in samples
        ]
        result: tuple[list[SequenceScore], list[float]] = await self.collective.call(
            self.collective.engine.score, sequences, coefficients, with_norms
        )
        return result


def _norms(scored: Mapping[SampleKey, SequenceScore]) -> dict[SampleKey, float]:
    return {key: score.grad_norm for key, score in scored.items() if score.grad_norm is not None}
