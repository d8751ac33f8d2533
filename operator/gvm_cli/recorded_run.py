"""Reads what a run left in its directory, whole or cut short. Knows nothing of how it is shown."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvm_api.load import load_job
from gvm_api.spec import GVMTrainingJob
from gvm_api.status import JobStatus
from gvm_cli import run_directory

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedPlan:
    """One iteration's plan; every list has one entry a prompt.

    `sample_sizes` count both stages: n_i of the pilot and of stage two.
    """

    iteration: int
    sample_sizes: tuple[int, ...]
    accept_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as far as it got.

    `lines` are those of metrics.jsonl, one an iteration, in order; iteration 0 is the evaluation before
    training. `num_unreadable` counts lines and plans that a kill left half-written.
    """

    directory: Path
    job: GVMTrainingJob
    status: JobStatus
    lines: tuple[Line, ...]
    plans: tuple[RecordedPlan, ...]
    num_unreadable: int

    @property
    def trained(self) -> tuple[Line, ...]:
        """The lines of training iterations."""
        return tuple(line for line in self.lines if line["iteration"] > 0)

    @property
    def evaluated(self) -> tuple[Line, ...]:
        """The lines that carry an evaluation."""
        return tuple(line for line in self.lines if line.get("eval"))

    @property
    def evaluation_sets(self) -> tuple[str, ...]:
        """Names of the evaluation sets, the job's first one first."""
        return tuple(dict.fromkeys(name for line in self.evaluated for name in line["eval"]))


def read_run(run_dir: Path) -> Run:
    """Read a run directory.

    Raises:
        ValueError: it is none, or the run has no iteration yet.
    """
    job_file = run_dir / run_directory.JOB_FILE
    if not job_file.is_file():
        raise ValueError(f"{run_dir}: is no run directory (it has no job.yaml); give the one that a run printed")
    lines, num_torn_lines = _read_lines(run_dir / "metrics.jsonl")
    if not lines:
        raise ValueError(f"{run_dir}: has no iteration yet (metrics.jsonl); wait for the first, or see its logs")
    plans, num_torn_plans = _read_plans(run_dir / "plans")
    return Run(
        directory=run_dir,
        job=load_job(job_file),
        status=run_directory.read_status(run_dir),
        lines=lines,
        plans=plans,
        num_unreadable=num_torn_lines + num_torn_plans,
    )


def number(line: Line, key: str) -> float:
    """A line's number; NaN where it was not measured."""
    value = line.get(key)
    return math.nan if value is None else float(value)


def _read_lines(path: Path) -> tuple[tuple[Line, ...], int]:
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    lines = [_parse(text) for text in texts if text.strip()]
    # An iteration that was repeated after a restart counts as it was done last.
    by_iteration = {line["iteration"]: line for line in lines if line is not None}
    return tuple(by_iteration[i] for i in sorted(by_iteration)), lines.count(None)


def _read_plans(folder: Path) -> tuple[tuple[RecordedPlan, ...], int]:
    files = sorted(folder.glob("*.json"))
    plans = [_plan(int(file.stem), _parse(file.read_text(encoding="utf-8", errors="replace"))) for file in files]
    return tuple(plan for plan in plans if plan is not None), plans.count(None)


def _plan(iteration: int, plan: Line | None) -> RecordedPlan | None:
    if plan is None:
        return None
    sizes = [pilot + main for pilot, main in zip(plan["pilot_sizes"], plan["sample_sizes"], strict=True)]
    rates = [math.nan if rate is None else rate for rate in plan["accept_rates"]]
    return RecordedPlan(iteration=iteration, sample_sizes=tuple(sizes), accept_rates=tuple(rates))


def _parse(text: str) -> Line | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
