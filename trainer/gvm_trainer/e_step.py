"""The E-step of one iteration: pilot, gradient norms, plan, second stage, scores. Every outcome goes to the allocator.

Reads straight down; every step is another module's. Trains nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gvm_api import wire
from gvm_api.spec import JobSpec
from gvm_trainer import allocation, variance
from gvm_trainer.algorithms import ALGORITHMS
from gvm_trainer.allocation import AllocatorClient
from gvm_trainer.collective import Collective
from gvm_trainer.engine import TokenSequence
from gvm_trainer.estimator import realised_variances, variance_coefficients
from gvm_trainer.records import Records
from gvm_trainer.reporter import Reporter
from gvm_trainer.rewards import Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Group, Prompt, Sample, SampleKey, SequenceScore, Stage
from gvm_trainer.sampling import sample_seed, sample_stage
from gvm_trainer.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """What an E-step brings: every prompt with its samples, judged and scored, and what concerns them all."""

    groups: list[Group]
    """in the order of the block"""
    plan: wire.Plan
    realised: variance.Variances | None

    @property
    def samples(self) -> list[Sample]:
        """Those of all prompts."""
        return [sample for group in self.groups for sample in group.samples]


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
        groups = [Group(prompt=prompt) for prompt in block]
        with seconds.of("pilot"):
            known = await self.allocator.posterior([p.id for p in block])
            pilot_sizes = allocation.pilot_sizes(block, known, self.spec.allocation)
            groups = await self._sample(groups, pilot_sizes, "pilot", iteration)
        with seconds.of("grad_norms"):
            self.reporter.stage("grad_norms")
            if accepted := [s for group in groups for s in group.samples if s.is_accepted]:
                scores, _ = await self._score(groups, accepted, None, with_norms=True)
                groups = _with_scores(groups, scores)
        with seconds.of("plan"):
            await self._observe(groups, "pilot", iteration, policy_version)
            plan = await self._plan(groups, iteration, policy_version)
            groups = allocation.planned(groups, plan)
            self.records.write_plan(iteration, plan, groups)
            self.reporter.planned(groups)
        with seconds.of("main"):
            groups = await self._sample(groups, [group.planned_size for group in groups], "main", iteration)
        with seconds.of("score"):
            groups, realised = await self._score_for_training(groups, iteration)
            await self._observe(groups, "main", iteration, policy_version)
        return Gathered(groups=groups, plan=plan, realised=realised)

    async def _sample(self, groups: list[Group], sizes: Sequence[int], stage: Stage, iteration: int) -> list[Group]:
        self.reporter.stage(stage)
        if not any(sizes):
            return groups
        return await sample_stage(
            self.client,
            self.verifier,
            groups,
            sizes,
            stage=stage,
            seed=sample_seed(self.spec.algorithm.seed, iteration, stage),
            on_progress=self.reporter.fraction,
        )

    async def _observe(self, groups: Sequence[Group], stage: Stage, iteration: int, policy_version: int) -> None:
        outcomes = allocation.outcomes(groups, stage)
        if outcomes:
            await self.allocator.observe(
                wire.ObserveRequest(
                    iteration=iteration, key=stage, stage=stage, policy_version=policy_version, outcomes=outcomes
                )
            )

    async def _plan(self, groups: Sequence[Group], iteration: int, policy_version: int) -> wire.Plan:
        self.reporter.stage("plan")
        return await self.allocator.plan(
            wire.PlanRequest(
                iteration=iteration,
                key="plan",
                policy_version=policy_version,
                prompt_ids=tuple(group.prompt.id for group in groups),
                budget=allocation.main_budget(groups, self.spec.allocation),
                pooled_sizes=tuple(g.size("pilot") for g in groups) if self.spec.pilot_reuse == "pooled" else (),
                gradient_source=self.spec.allocation.grad_norm.source,
            )
        )

    async def _score_for_training(
        self, groups: list[Group], iteration: int
    ) -> tuple[list[Group], variance.Variances | None]:
        """One pass over all that will be trained on: old logprobs, gradient norms, the realised variance."""
        spec = self.spec
        self.reporter.stage("score")
        measures = spec.allocation.measure_variance
        needs_norms = measures or spec.allocation.policy != "uniform"
        chosen = [s for g in groups for s in g.samples if s.is_accepted or self._is_trained_when_rejected(s)]
        if not chosen or (not needs_norms and spec.algorithm.old_logprobs == "rollout"):
            return groups, None
        generator = np.random.default_rng((spec.algorithm.seed, iteration))
        coefficients = variance_coefficients(spec, groups, chosen, generator=generator) if measures else None
        scores, sums = await self._score(groups, chosen, coefficients, with_norms=needs_norms)
        realised = realised_variances(sums) if measures else None
        return _with_scores(groups, scores), realised

    def _is_trained_when_rejected(self, sample: Sample) -> bool:
        return ALGORITHMS[self.spec.algorithm.name].trains_on_rejected and sample.is_judged

    async def _score(
        self, groups: Sequence[Group], samples: Sequence[Sample], coefficients: np.ndarray | None, *, with_norms: bool
    ) -> tuple[dict[SampleKey, SequenceScore], list[float]]:
        prompts = {group.prompt.id: group.prompt for group in groups}
        sequences = [
            TokenSequence(
                prompt_token_ids=prompts[s.completion.prompt_id].token_ids, response_token_ids=s.completion.token_ids
            )
            for s in samples
        ]
        scores, sums = await self.collective.call(self.collective.engine.score, sequences, coefficients, with_norms)
        return {s.completion.key: score for s, score in zip(samples, scores, strict=True)}, sums


def _with_scores(groups: Sequence[Group], scores: Mapping[SampleKey, SequenceScore]) -> list[Group]:
    """Samples without a new score keep what they have."""
    return [g.with_each(lambda s: replace(s, score=scores.get(s.completion.key, s.score))) for g in groups]
