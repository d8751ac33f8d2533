"""Which samples of a run are wanted: the files of its iterations, columns, filters and order. Reads no sample."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gvm_api.load import load_job
from gvm_cli import run_directory

Row = dict[str, Any]
Outcome = Literal["accepted", "rejected", "timeout", "error"]
Stage = Literal["pilot", "main"]
SortKey = Literal["n_i", "tokens", "p", "G", "reward"]

COLUMNS = (
    "iteration",
    "prompt_id",
    "prompt",
    "answer",
    "stage",
    "index",
    "completion",
    "num_tokens",
    "reward",
    "outcome",
    "finish_reason",
    "policy_version",
    "accept_rate",
    "grad_norm",
    "sample_size",
)
"""Every column but token_ids, which is long and said again by completion."""

ALL_COLUMNS = (*COLUMNS, "token_ids")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """Which samples; what is None or empty does not matter."""

    prompt_id: str | None = None
    outcome: Outcome | None = None
    stage: Stage | None = None
    min_accept_rate: float | None = None
    """Of p, the prompt's estimated acceptance rate when it was planned; bounds are included."""

    max_accept_rate: float | None = None
    search: str = ""
    """In prompt, answer or completion, upper or lower case."""

    sort: SortKey | None = None
    """None: as they were drawn."""

    is_ascending: bool = False
    limit: int = 0
    """0 for all."""


def sample_files(run_dir: Path) -> dict[int, Path]:
    """The files of samples by iteration, ascending.

    Raises:
        ValueError: `run_dir` holds no run, or one without samples.
    """
    job_file = run_dir / run_directory.JOB_FILE
    if not job_file.is_file():
        raise ValueError(f"{run_dir}: is no run directory (it has no job.yaml); give the one that a run printed")
    files = {int(path.stem): path for path in (run_dir / "samples").glob("*.parquet") if path.stem.isdecimal()}
    if files:
        return dict(sorted(files.items()))
    if not load_job(job_file).spec.storage.save_samples:
        raise ValueError(
            f"{run_dir}: has no samples, as spec.storage.saveSamples is false; set it to true and run anew"
        )
    raise ValueError(f"{run_dir}: has no samples yet (samples/); wait for the first iteration, or see its logs")


def choose(files: Mapping[int, Path], asked: str | None) -> dict[int, Path]:
    """The files that were asked for: an iteration, a range of them such as 3-5, `all`; the last for None.

    Raises:
        ValueError: none of these, or of iterations that there are not.
    """
    known = f"there are samples of {_spelled(list(files))}"
    if asked is None:
        return dict([list(files.items())[-1]])
    if asked == "all":
        return dict(files)
    match = _RANGE.fullmatch(asked)
    if match is None:
        raise ValueError(f"--iteration {asked!r}: is no iteration; write one such as 7, a range such as 3-5, or all")
    first, last = int(match[1]), int(match[2] or match[1])
    chosen = {iteration: path for iteration, path in files.items() if first <= iteration <= last}
    if not chosen:
        raise ValueError(f"--iteration {asked}: {known}; choose from these, or all")
    return chosen


def _spelled(iterations: Sequence[int]) -> str:
    """Iterations as a person writes them, e.g. iterations 1-3, 5, 8-9."""
    parts: list[list[int]] = []
    for each in iterations:
        if parts and each == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], each]
        else:
            parts.append([each])
    text = ", ".join("-".join(map(str, part)) for part in parts)
    return f"iteration{'' if len(iterations) == 1 else 's'} {text}"
