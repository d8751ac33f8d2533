"""Run directories: which one a run takes, whether it resumes, and the files at its top."""

import contextlib
import fcntl
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from gvm_api import yaml_format
from gvm_api.load import InvalidJobError, load_job, one_line
from gvm_api.spec import GVMTrainingJob
from gvm_api.status import TERMINAL, JobStatus
from gvm_operator import manifests

JOB_FILE = "job.yaml"
STATUS_FILE = "status.json"
TARGETS_FILE = "targets.json"


def choose(base: Path, *, job: str, fresh: bool) -> tuple[Path, bool]:
    """The directory for a run that was asked for at `base`, and whether it resumes.

    The newest of base, base-2, base-3, … that holds a run of this job is resumed where it did not end; otherwise a
    new one beside it is taken. A folder without a run counts as free.

    Raises:
        InvalidJobError: the newest run's files cannot be read.
    """
    runs = [n for n in _numbers(base) if (_numbered(base, n) / JOB_FILE).exists()]
    own = [n for n in runs if _job_name(_numbered(base, n) / JOB_FILE) == job]
    if own and not fresh and read_status(_numbered(base, own[-1])).phase not in TERMINAL:
        return _numbered(base, own[-1]), True
    newest = runs[-1] if runs else 0
    return _numbered(base, newest + 1), False


def _numbers(base: Path) -> list[int]:
    """Which of base (1), base-2 (2), … exist, ascending."""
    form = re.compile(re.escape(base.name) + r"-([1-9][0-9]*)")
    siblings = base.parent.iterdir() if base.parent.is_dir() else ()
    found = {int(match[1]) for path in siblings if (match := form.fullmatch(path.name))}
    return sorted((found - {1}) | ({1} if base.exists() else set()))


def _job_name(job_file: Path) -> object:
    """The name in a job file that may be of an older version, or broken."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return yaml_format.load_all(job_file.read_text(encoding="utf-8"))[0]["metadata"]["name"]
    return None


def _numbered(base: Path, number: int) -> Path:
    return base if number == 1 else base.with_name(f"{base.name}-{number}")


def lock(run_dir: Path) -> IO[str]:
    """Hold the run directory until the returned file is closed (a crash closes it too).

    Raises:
        InvalidJobError: another run holds it, or it cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / ".lock").open("w")
    except OSError as error:
        raise InvalidJobError([f"--run-dir: {run_dir} cannot be written ({error.strerror}); give another"]) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InvalidJobError([f"--run-dir: {run_dir} is in use by another run; wait, or give another"]) from error
    return file


def check_same_job(job: GVMTrainingJob, run_dir: Path) -> None:
    """A resumed run must be the same job, but for its length.

    Raises:
        InvalidJobError: the spec differs; one line a differing field.
    """
    before = _flat(load_job(run_dir / JOB_FILE).spec.model_dump(mode="json"))
    now = _flat(job.spec.model_dump(mode="json"))
    may_change = ("algorithm.maxIterations", "runPolicy.", "rollout.replicas")
    problems = [
        one_line(
            f"spec.{key}: {now.get(key)!r} differs from {before.get(key)!r} of the run in {run_dir} that would be "
            "resumed; change it back, or start anew with --new"
        )
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(may_change)
    ]
    if problems:
        raise InvalidJobError(problems)


def _flat(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}" if path else key).items()}
    return {path: value}


def write_job(run_dir: Path, job: GVMTrainingJob) -> None:
    """Write the job file that the run's processes read, at once and whole."""
    _replace(run_dir / JOB_FILE, manifests.job_file(job))


def read_status(run_dir: Path) -> JobStatus:
    """The run's status; Pending where none was written yet.

    Raises:
        InvalidJobError: the file is no status.
    """
    path = run_dir / STATUS_FILE
    if not path.exists():
        return JobStatus()
    try:
        return JobStatus.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidJobError([f"{path}: is no status of a run; remove it, or give another directory"]) from error


def write_status(run_dir: Path, status: JobStatus) -> None:
    """Replace the run's status, at once and whole."""
    _replace(run_dir / STATUS_FILE, status.model_dump_json(indent=2) + "\n")


def write_targets(run_dir: Path, job: GVMTrainingJob, ports: Mapping[str, int]) -> None:
    """Write where the run's processes serve /metrics, as Prometheus' file-based discovery (file_sd) reads it.

    Args:
        ports: port by the process's name, such as rollout-0.
    """
    own = {"namespace": job.metadata.namespace, "job": job.metadata.name}
    groups = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {**own, "role": name.partition("-")[0], "process": name}}
        for name, port in ports.items()
    ]
    _replace(run_dir / TARGETS_FILE, json.dumps(groups, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def read_metrics(run_dir: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl; one that is still being written, or that a crash tore, is left out."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return []
    lines: list[dict[str, object]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
