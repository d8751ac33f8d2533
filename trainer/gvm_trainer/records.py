"""The run directory as the learner writes it: metrics.jsonl, plans/, samples/. Its keys are documented here.

A line of metrics.jsonl is one iteration; iteration 0 is the evaluation before training. Writing an iteration
again replaces what it wrote before, so a resumed run leaves no double entries.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gvm_api.wire import Plan
from gvm_trainer.checkpoints import replace_text, truncate_metrics
from gvm_trainer.samples import Prompt, Sample


class Records:
    """Writes one run's records. Only the leader has one."""

    def __init__(self, run_dir: Path, *, saves_samples: bool) -> None:
        self.metrics = run_dir / "metrics.jsonl"
        self.plans, self.samples = run_dir / "plans", run_dir / "samples"
        self.saves_samples = saves_samples
        self.plans.mkdir(parents=True, exist_ok=True)
        self.samples.mkdir(parents=True, exist_ok=True)

    def resume(self, *, after_iteration: int) -> None:
        """Take back what was written after the checkpoint."""
        truncate_metrics(self.metrics, after_iteration=after_iteration)

    def write_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one iteration's line."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def write_plan(self, iteration: int, plan: Plan, pilot_sizes: Sequence[int]) -> None:
        """Write who got what, and why."""
        content = {
            "iteration": iteration,
            "policy": plan.policy,
            "prompt_ids": plan.prompt_ids,
            "pilot_sizes": list(pilot_sizes),
            "sample_sizes": plan.sample_sizes,
            "accept_rates": plan.accept_rates,
            "grad_norms": plan.grad_norms,
            "predicted_variance": plan.predicted_variance,
            "predicted_variance_uniform": plan.predicted_variance_uniform,
        }
        replace_text(self.plans / f"{iteration:06}.json", json.dumps(content))

    def write_samples(self, iteration: int, prompts: Sequence[Prompt], groups: Mapping[str, Sequence[Sample]]) -> None:
        """Write every sample of an iteration as Parquet, one row each."""
        if not self.saves_samples:
            return
        rows = [
            {
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "answer": prompt.answer,
                "stage": sample.completion.stage,
                "index": sample.completion.index,
                "completion": sample.completion.text,
                "token_ids": sample.completion.token_ids,
                "reward": sample.reward,
                "outcome": sample.outcome,
                "finish_reason": sample.completion.finish_reason,
                "policy_version": sample.completion.policy_version,
            }
            for prompt in prompts
            for sample in groups[prompt.id]
        ]
        path = self.samples / f"{iteration:06}.parquet"
        temporary = path.with_suffix(".writing")
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
        temporary.replace(path)


_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "prompt": pa.string(),
        "answer": pa.string(),
        "stage": pa.string(),
        "index": pa.int32(),
        "completion": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "reward": pa.float32(),
        "outcome": pa.string(),
        "finish_reason": pa.string(),
        "policy_version": pa.int32(),
    }
)
