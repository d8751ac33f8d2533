"""The training loop: what one rank does from start to end. Rank 0 drives, the others follow its calls.

Reads straight down; every step is another module's. Knows no formula.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gvm_api import env, wire
from gvm_api.load import load_job
from gvm_api.spec import GVMTrainingJob, JobSpec, ModelSpec
from gvm_trainer import allocation, variance
from gvm_trainer.advantages import training_samples
from gvm_trainer.allocation import AllocatorClient, AllocatorError
from gvm_trainer.checkpoints import Checkpoints, LoopState, write_final
from gvm_trainer.engine import Engine, SequenceScore, TokenSequence, UpdateStats, with_logprobs
from gvm_trainer.estimator import (
    estimator_of,
    predicted_variances,
    realised_variances,
    variance_coefficients,
)
from gvm_trainer.evaluation import Score, evaluate
from gvm_trainer.gang import Gang
from gvm_trainer.iteration_metrics import plan_metrics, sample_metrics, update_metrics
from gvm_trainer.prompt_order import PromptOrder
from gvm_trainer.prompts import PromptSet, load_prompts, overlap
from gvm_trainer.records import Records
from gvm_trainer.rewards import Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Prompt, Sample, Stage
from gvm_trainer.sampling import sample_seed, sample_stage
from gvm_trainer.stopwatch import Stopwatch
from gvm_trainer.termination import invalid_input_explained
from gvm_trainer.weight_sync import WeightSync, WeightSyncError, parity
from gvm_trainer.weight_sync.choice import weight_sync

logger = logging.getLogger(__name__)

Key = tuple[str, Stage, int]
Groups = dict[str, list[Sample]]


def main() -> None:
    """One rank, from its environment to its end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every sample
    settings = env.learner_env()
    job = load_job(settings.job_file)
    gang = Gang(collective_timeout_seconds=job.spec.learner.collective_timeout_seconds)
    with invalid_input_explained():
        tokenizer = _load_tokenizer(job.spec.model)
        training, held_out = load_prompts(job.spec, tokenizer) if gang.is_leader else (None, {})
        engine = Engine(job.spec, gang)
    if training is None:
        gang.follow(engine)
    else:
        asyncio.run(lead(job, settings, gang, engine, tokenizer, training, held_out))
        gang.dismiss()
    gang.close()


async def lead(
    job: GVMTrainingJob,
    settings: env.LearnerEnv,
    gang: Gang,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    training: PromptSet,
    held_out: dict[str, PromptSet],
) -> None:
    """Rank 0: connect to the servers and the allocator, and run the loop."""
    spec = job.spec
    async with AsyncExitStack() as stack:
        with invalid_input_explained():
            verifier = stack.enter_context(Verifier(spec.reward))
        sync = weight_sync(spec.weight_sync, settings)
        stack.callback(sync.close)
        client = await stack.enter_async_context(
            RolloutClient(
                settings.rollout_urls,
                max_tokens=spec.rollout.max_response_tokens,
                temperature=spec.rollout.temperature,
                top_p=spec.rollout.top_p,
                concurrency=spec.rollout.concurrency,
                timeout_seconds=spec.rollout.request_timeout_seconds,
                retries=spec.rollout.request_retries,
                on_stale=sync.restore,
            )
        )
        allocator = await stack.enter_async_context(
            AllocatorClient(
                settings.allocator_url,
                job=job.metadata.name,
                token=settings.allocator_token,
                timeout_seconds=spec.allocator.request_timeout_seconds,
            )
        )
        loop = TrainingLoop(
            spec=spec,
            run_dir=settings.run_dir,
            gang=gang,
            engine=engine,
            client=client,
            allocator=allocator,
            verifier=verifier,
            sync=sync,
            worker=stack.enter_context(_engine_thread(gang)),
            tokenizer=tokenizer,
            training=training,
            held_out=held_out,
        )
        await loop.run()


@dataclass(kw_only=True, slots=True)
class TrainingLoop:
    """The loop and all that it drives."""

    spec: JobSpec
    run_dir: Path
    gang: Gang
    engine: Engine
    client: RolloutClient
    allocator: AllocatorClient
    verifier: Verifier
    sync: WeightSync
    worker: ThreadPoolExecutor
    tokenizer: PreTrainedTokenizerBase
    training: PromptSet
    held_out: dict[str, PromptSet]
    order: PromptOrder = field(init=False)
    records: Records = field(init=False)
    checkpoints: Checkpoints = field(init=False)
    progress: wire.Progress = field(init=False)
    # Where the run stands; a checkpoint holds all of these.
    iteration: int = 0
    samples_total: int = 0
    tokens_total: int = 0
    elapsed_before: float = 0.0
    best_accuracy: float | None = None
    best_iteration: int | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        storage = self.spec.storage
        self.order = PromptOrder(
            num_prompts=len(self.training.prompts),
            seed=self.spec.algorithm.seed,
            shuffle=self.spec.dataset.shuffle,
        )
        self.records = Records(self.run_dir, saves_samples=storage.save_samples)
        self.checkpoints = Checkpoints(self.run_dir, keep_last=storage.keep_last, keep_best=storage.keep_best)
        self.progress = wire.Progress(phase="Starting", max_iterations=self.spec.algorithm.max_iterations)
        self._warn_of_data()

    async def run(self) -> None:
        """From the last checkpoint, or the beginning, to maxIterations."""
        async with self._reporting():
            await self.client.wait_until_ready(self.spec.run_policy.startup_deadline_seconds)
            await self._resume_or_begin()
            self.progress = self.progress.model_copy(update={"phase": "Running"})
            while self.iteration < self.spec.algorithm.max_iterations:
                await self._iterate()
            self._stage("saving")
            await self._in_worker(partial(write_final, self.run_dir, self._write_model))
        with suppress(AllocatorError):  # the run has succeeded, whoever hears of it
            await self.allocator.progress(self.progress.model_copy(update={"phase": "Succeeded", "stage": ""}))

    async def _resume_or_begin(self) -> None:
        found = self.checkpoints.latest()
        if found is None:
            # A run that was killed before its first checkpoint left observations that will be made again.
            await self.allocator.forget()
            await self.allocator.register(self.spec.allocation)
            self.records.resume(after_iteration=-1)
            await self._begin()
            return
        state = self.checkpoints.load(found)
        logger.info("resuming after iteration %d from %s", state.iteration, found)
        self._stage("resuming")
        await self._collective(self.engine.load_state, str(found))
        await self.allocator.restore(state.allocator)
        await self.allocator.register(self.spec.allocation)
        self.records.resume(after_iteration=state.iteration - 1)
        self.records.write_metrics(state.metrics_line)
        self.order = PromptOrder.from_state(state.prompt_order)  # type: ignore[arg-type]  # JSON of an OrderState
        self.iteration, self.elapsed_before = state.iteration, state.elapsed_seconds
        self.samples_total, self.tokens_total = state.samples_total, state.tokens_total
        self.best_accuracy, self.best_iteration = state.best_accuracy, state.best_iteration
        self._show(state.metrics_line)
        await self._sync_weights(self._probes())

    async def _begin(self) -> None:
        """Before training: the servers must already agree with the learner, and the first evaluation."""
        seconds = Stopwatch()
        self._stage("first sync")
        with seconds.of("sync"):
            await self._sync_weights(self._probes())
        scores = await self._evaluate(seconds)
        self._write_line({"iteration": 0, "step": 0, "eval": _as_dicts(scores)}, seconds)

    async def _iterate(self) -> None:
        """One iteration: draw, pilot, plan, sample, train, sync, record."""
        spec, seconds = self.spec, Stopwatch()
        iteration = self.iteration + 1
        block = [self.training.prompts[i] for i in self.order.draw(spec.algorithm.prompts_per_iteration)]

        with seconds.of("pilot"):
            known = await self.allocator.posterior([p.id for p in block])
            pilot_sizes = allocation.pilot_sizes(block, known, spec.allocation)
            groups = await self._sample(block, pilot_sizes, "pilot", iteration)
        norms: dict[Key, float] = {}
        with seconds.of("grad_norms"):
            accepted = _accepted(groups)
            if accepted:
                scores, _ = await self._score(block, accepted, None, with_norms=True)
                norms = _norms(accepted, scores)
        with seconds.of("plan"):
            await self._observe(block, groups, "pilot", norms, iteration)
            plan = await self._plan(block, pilot_sizes, iteration)
            self.records.write_plan(iteration, plan, [pilot_sizes[p.id] for p in block])
        with seconds.of("main"):
            sizes = dict(zip(plan.prompt_ids, plan.sample_sizes, strict=True))
            for prompt_id, own in (await self._sample(block, sizes, "main", iteration)).items():
                groups[prompt_id] += own
        with seconds.of("score"):
            scored, realised = await self._score_for_training(block, groups, plan, iteration)
            norms |= {key: s.grad_norm for key, s in scored.items() if s.grad_norm is not None}
            await self._observe(block, groups, "main", norms, iteration)
        with seconds.of("train"):
            updates, num_without = await self._train(block, groups, scored)
        self.iteration = iteration
        with seconds.of("sync"):
            synced = await self._sync_weights(self._probes(groups))
        due = iteration % spec.evaluation.every_iterations == 0 or iteration == spec.algorithm.max_iterations
        evaluated = await self._evaluate(seconds) if due else None
        with seconds.of("records"):
            self.records.write_samples(iteration, block, groups)
        predicted = predicted_variances(spec, plan, pilot_sizes)
        samples = [s for own in groups.values() for s in own]
        spent = seconds.read()
        line = {
            "iteration": iteration,
            "step": self.engine.num_updates,
            "policy_version": iteration,
            **sample_metrics(block, samples, spent["pilot"] + spent["main"]),
            **plan_metrics(plan, pilot_sizes, predicted, realised),
            **update_metrics(updates),
            **synced,
            "num_prompts_dropped": self.training.num_dropped,
            "zero_gradient_fraction": num_without / len(block),
            "eval": evaluated and _as_dicts(evaluated),
        }
        self._advance(line, predicted)
        line |= {"samples_total": self.samples_total, "tokens_total": self.tokens_total}
        await self._maybe_checkpoint(evaluated, line, seconds)
        self._write_line(line, seconds)

    async def _sample(self, block: Sequence[Prompt], sizes: Mapping[str, int], stage: Stage, iteration: int) -> Groups:
        self._stage(stage)
        if not any(sizes.values()):
            return {prompt.id: [] for prompt in block}
        return await sample_stage(
            self.client,
            self.verifier,
            block,
            sizes,
            stage=stage,
            seed=sample_seed(self.spec.algorithm.seed, iteration, stage),
            on_progress=self._stage_fraction,
        )

    async def _observe(
        self, block: Sequence[Prompt], groups: Groups, stage: Stage, norms: Mapping[Key, float], iteration: int
    ) -> None:
        outcomes = allocation.outcomes(block, groups, stage, norms)
        if outcomes:
            await self.allocator.observe(
                wire.ObserveRequest(
                    iteration=iteration, key=stage, stage=stage, policy_version=self.iteration, outcomes=outcomes
                )
            )

    async def _plan(self, block: Sequence[Prompt], pilot_sizes: Mapping[str, int], iteration: int) -> wire.Plan:
        self._stage("plan")
        return await self.allocator.plan(
            wire.PlanRequest(
                iteration=iteration,
                key="plan",
                policy_version=self.iteration,
                prompt_ids=tuple(p.id for p in block),
                budget=allocation.main_budget(len(block), pilot_sizes, self.spec.allocation),
                pooled_sizes=tuple(pilot_sizes.values()) if self.spec.pilot_reuse == "pooled" else (),
                gradient_source=self.spec.allocation.grad_norm.source,
            )
        )

    async def _score_for_training(
        self, block: Sequence[Prompt], groups: Groups, plan: wire.Plan, iteration: int
    ) -> tuple[dict[Key, SequenceScore], variance.Variances | None]:
        """One pass over all that will be trained on: old logprobs, gradient norms, the realised variance."""
        spec = self.spec
        self._stage("score")
        measures = spec.allocation.measure_variance
        needs_norms = measures or spec.allocation.policy != "uniform"
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
        sequences = [_token_sequence(prompts[s.completion.prompt_id], s) for s in samples]
        result: tuple[list[SequenceScore], list[float]] = await self._collective(
            self.engine.score, sequences, coefficients, with_norms
        )
        return result

    async def _train(
        self, block: Sequence[Prompt], groups: Groups, scored: Mapping[Key, SequenceScore]
    ) -> tuple[list[UpdateStats], int]:
        """The M-step. Returns each update's statistics and how many prompts gave no gradient."""
        self._stage("train")
        spec, updates, num_with = self.spec, [], 0
        for number, share in enumerate(np.array_split(np.arange(len(block)), spec.algorithm.updates_per_iteration)):
            mini_batch = {block[i]: groups[block[i].id] for i in share}
            samples = training_samples(mini_batch, estimator_of(spec))
            num_with += len({s.key[0] for s in samples})
            if spec.algorithm.old_logprobs == "learner" and scored:
                samples = with_logprobs(samples, [scored[s.key] for s in samples])
            if samples:
                updates.append(await self._collective(self.engine.update, samples))
            self._stage_fraction((number + 1) / spec.algorithm.updates_per_iteration)
        return updates, len(block) - num_with

    async def _sync_weights(self, probes: Sequence[TokenSequence]) -> dict[str, Any]:
        """Push the learner's weights into the servers, and check on `probes` that both say the same."""
        self._stage("sync")
        weights = await self._collective(self.engine.weights)
        pushed = await self.sync.push(weights, version=self.iteration)
        self.client.expected_version = self.iteration
        # The whole probe but its first token counts as response: prompts are compared too.
        whole = [(*probe.prompt_token_ids, *probe.response_token_ids) for probe in probes]
        sequences = [TokenSequence(prompt_token_ids=ids[:1], response_token_ids=ids[1:]) for ids in whole]
        scores, _ = await self._collective(self.engine.score, sequences, None, False)
        found = await parity(self.client, whole, [s.logprobs for s in scores])
        if found.mean_abs > self._parity_tolerance():
            raise WeightSyncError(
                f"after the sync to version {self.iteration} server and learner differ by {found.mean_abs:.2g} nats a "
                f"token (most at {found.worst_url}), more than weightSync.parityTolerance "
                f"{self._parity_tolerance():g}: the servers sample another policy than the one that is trained"
            )
        return {"sync_bytes": pushed.num_bytes, "parity_mean_abs": found.mean_abs, "parity_max_abs": found.max_abs}

    def _parity_tolerance(self) -> float:
        given = self.spec.weight_sync.parity_tolerance
        return given if given is not None else (0.1 if self.engine.is_bfloat16 else 1e-3)

    def _probes(self, groups: Groups | None = None) -> list[TokenSequence]:
        """A few sequences for the parity check: this iteration's samples, or the first prompts."""
        num = self.spec.weight_sync.parity_samples
        if groups is None:
            some = self.training.prompts[:num]
            return [TokenSequence(prompt_token_ids=p.token_ids, response_token_ids=()) for p in some]
        prompts = {p.id: p for p in self.training.prompts}
        samples = [own[0] for own in groups.values() if own][:num]
        return [_token_sequence(prompts[s.completion.prompt_id], s) for s in samples]

    async def _evaluate(self, seconds: Stopwatch) -> dict[str, Score]:
        self._stage("evaluate")
        pairs = [(dataset, self.held_out[dataset.name]) for dataset in self.spec.evaluation.datasets]
        with seconds.of("evaluate"):
            scores = await evaluate(
                self.client,
                self.verifier,
                pairs,
                max_response_tokens=self.spec.rollout.max_response_tokens,
                seed=self.spec.algorithm.seed,
                on_progress=self._stage_fraction,
            )
        if scores:
            accuracy = next(iter(scores.values())).accuracy
            self.progress = self.progress.model_copy(update={"accuracy": accuracy})
        return scores

    async def _maybe_checkpoint(
        self, evaluated: dict[str, Score] | None, line: dict[str, Any], seconds: Stopwatch
    ) -> None:
        every, last = self.spec.storage.checkpoint_every_iterations, self.spec.algorithm.max_iterations
        is_best = self._is_best(evaluated)
        if not (is_best or self.iteration % every == 0 or self.iteration == last):
            return
        self._stage("checkpoint")
        with seconds.of("checkpoint"):
            state = LoopState(
                iteration=self.iteration,
                step=self.engine.num_updates,
                samples_total=self.samples_total,
                tokens_total=self.tokens_total,
                elapsed_seconds=self._elapsed(),
                best_accuracy=self.best_accuracy,
                best_iteration=self.best_iteration,
                prompt_order=dict(self.order.state()),
                metrics_line=self._finished(line, seconds),
                allocator=await self.allocator.snapshot(),
            )
            await self._in_worker(lambda: self.checkpoints.save(state, self._write_state))

    def _write_state(self, directory: Path) -> None:
        self.gang.call(self.engine, "save_state", str(directory))
        self._write_model(directory / "model")

    def _write_model(self, directory: Path) -> None:
        self.gang.call(self.engine, "save_model", str(directory))
        self.tokenizer.save_pretrained(directory)

    def _is_best(self, evaluated: dict[str, Score] | None) -> bool:
        if not evaluated:
            return False
        accuracy = next(iter(evaluated.values())).accuracy
        if self.best_accuracy is not None and accuracy <= self.best_accuracy:
            return False
        self.best_accuracy, self.best_iteration = accuracy, self.iteration
        return True

    def _advance(self, line: Mapping[str, Any], predicted: variance.Variances) -> None:
        """Move the run's totals and what the terminal sees on by one iteration."""
        self.samples_total += line["num_samples_pilot"] + line["num_samples_main"]
        self.tokens_total += line["tokens_generated_pilot"] + line["tokens_generated_main"]
        reduction = 1 - predicted.plan / predicted.uniform if predicted.uniform else None
        self._show(line, variance_reduction=reduction)

    def _show(self, line: Mapping[str, Any], **figures: float | None) -> None:
        """Tell of the last iteration that is done, by its line of metrics."""
        self.progress = self.progress.model_copy(
            update={
                "iteration": self.iteration,
                "step": self.engine.num_updates,
                "accept_rate": line.get("accept_rate"),
                "samples_per_second": line.get("samples_per_second"),
                **figures,
            }
        )

    def _finished(self, line: dict[str, Any], seconds: Stopwatch) -> dict[str, Any]:
        return {**line, "seconds": seconds.read(), "time": time.time(), "elapsed_seconds": self._elapsed()}

    def _write_line(self, line: dict[str, Any], seconds: Stopwatch) -> None:
        self.records.write_metrics(self._finished(line, seconds))

    def _elapsed(self) -> float:
        return self.elapsed_before + time.monotonic() - self.started

    def _stage(self, name: str) -> None:
        self.progress = self.progress.model_copy(update={"stage": name, "stage_fraction": None})

    def _stage_fraction(self, fraction: float) -> None:
        self.progress = self.progress.model_copy(update={"stage_fraction": fraction})

    @asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """Tell the allocator every second how the run goes; the operator and the terminal read it there."""

        async def report() -> None:
            while True:
                with suppress(AllocatorError):  # progress only; the loop's own calls do fail
                    await self.allocator.progress(self.progress)
                await asyncio.sleep(1.0)

        task = asyncio.create_task(report())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _collective(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the engine on every rank, off the event loop's thread."""
        return await self._in_worker(partial(self.gang.call, self.engine, method.__name__, *args))

    async def _in_worker(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.worker, call)

    def _warn_of_data(self) -> None:
        if self.training.num_dropped:
            logger.warning(
                "%d training prompts exceed dataset.maxPromptTokens and are dropped", self.training.num_dropped
            )
        for name, prompts in self.held_out.items():
            shared = overlap(self.training, prompts)
            if shared:
                logger.warning(
                    "%d of %d prompts of evaluation set %s are also trained on", shared, len(prompts.prompts), name
                )


def _load_tokenizer(model: ModelSpec) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    return tokenizer


@contextmanager
def _engine_thread(gang: Gang) -> Iterator[ThreadPoolExecutor]:
    """The one thread on which the engine runs: CUDA's current device belongs to a thread."""
    on_gpu = gang.device.type == "cuda"
    start = partial(torch.cuda.set_device, gang.device) if on_gpu else None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine", initializer=start) as worker:
        yield worker


def _accepted(groups: Groups) -> list[Sample]:
    return [s for own in groups.values() for s in own if s.is_accepted]


def _norms(samples: Sequence[Sample], scores: Sequence[SequenceScore]) -> dict[Key, float]:
    pairs = zip(samples, scores, strict=True)
    return {sample.completion.key: score.grad_norm for sample, score in pairs if score.grad_norm is not None}


def _token_sequence(prompt: Prompt, sample: Sample) -> TokenSequence:
    return TokenSequence(prompt_token_ids=prompt.token_ids, response_token_ids=sample.completion.token_ids)


def _as_dicts(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    return {name: asdict(score) for name, score in scores.items()}
