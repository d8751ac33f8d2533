"""What a run prints: one line an iteration, a progress bar on a terminal, a table at the end."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from gvm_api.status import JobStatus
from gvm_api.wire import Progress as LearnerProgress
from gvm_cli import run_directory


@dataclass(kw_only=True, slots=True)
class Display:
    """Prints a run as it goes. Call `show` often; it prints what is new.

    With `as_json`, standard output gets the lines of metrics.jsonl and nothing else.
    """

    console: Console
    run_dir: Path
    as_json: bool = False
    quiet: bool = False
    _seen: int = 0
    _bar: Progress | None = None
    _task: TaskID | None = None
    _message: str = ""
    _first: tuple[float, int] | None = field(default=None)

    def __enter__(self) -> "Display":
        self._seen = len(run_directory.read_metrics(self.run_dir))
        if self.console.is_terminal and not self.as_json and not self.quiet:
            columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self.console)
            self._task = self._bar.add_task("starting", total=1.0, facts="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, status: JobStatus, progress: LearnerProgress | None) -> None:
        """Print new iterations and messages, and move the bar."""
        if status.message and status.message != self._message:
            self._message = status.message
            self.console.print(status.message, style="yellow", highlight=False, markup=False, soft_wrap=True)
        lines = run_directory.read_metrics(self.run_dir)
        self._seen = min(self._seen, len(lines))  # a restarted learner takes lines back
        for line in lines[self._seen :]:
            self._print_line(line, status.max_iterations)
        self._seen = len(lines)
        if self._bar is not None and self._task is not None:
            self._move_bar(status, progress)

    def _print_line(self, line: dict[str, Any], max_iterations: int) -> None:
        if self.quiet:
            return
        if self.as_json:
            print(json.dumps(line), flush=True)
            return
        self.console.print(summary_line(line, max_iterations), highlight=False, soft_wrap=True)

    def _move_bar(self, status: JobStatus, progress: LearnerProgress | None) -> None:
        assert self._bar is not None
        assert self._task is not None
        if progress is None or not progress.max_iterations:
            self._bar.update(self._task, description=status.phase.lower())
            return
        done = progress.iteration / progress.max_iterations
        facts = [
            _fact("samples/s", progress.samples_per_second, ".0f"),
            _fact("accept", progress.accept_rate, ".2f"),
            _fact("accuracy", progress.accuracy, ".3f"),
            self._time_left(progress),
        ]
        stage = progress.stage
        if progress.stage_fraction is not None:
            stage += f" {progress.stage_fraction:.0%}"
        self._bar.update(
            self._task,
            completed=done,
            description=f"iteration {progress.iteration}/{progress.max_iterations} {stage}",
            facts="  ".join(f for f in facts if f),
        )

    def _time_left(self, progress: LearnerProgress) -> str:
        if self._first is None:
            self._first = (time.monotonic(), progress.iteration)
        since, iteration = self._first
        if progress.iteration == iteration:
            return ""
        seconds = (time.monotonic() - since) / (progress.iteration - iteration)
        left = int(seconds * (progress.max_iterations - progress.iteration))
        return f"left {left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"


def _fact(name: str, value: float | None, form: str) -> str:
    return "" if value is None else f"{name} {value:{form}}"


def summary_line(line: dict[str, Any], max_iterations: int) -> str:
    """One iteration in one line of plain text."""
    accuracy = "  ".join(f"{name} {scores['accuracy']:.3f}" for name, scores in (line.get("eval") or {}).items())
    if line["iteration"] == 0:
        return f"before training   accuracy {accuracy or 'not evaluated'}"
    seconds = line["seconds"]
    stages = " ".join(f"{k} {v:.1f}" for k, v in seconds.items() if k != "total" and v >= 0.05)
    parts = [
        f"iteration {line['iteration']:>3}/{max_iterations}",
        f"accept {line['accept_rate']:.3f}",
        f"loss {line['loss']:+.4f}",
        f"{line['samples_per_second']:.0f} samples/s",
        f"variance/uniform {_ratio(line['predicted_variance'], line['predicted_variance_uniform'])}",
        f"{seconds['total']:.1f} s ({stages})",
    ]
    return "  ".join(parts) + (f"  accuracy {accuracy}" if accuracy else "")


def _ratio(value: float | None, of: float | None) -> str:
    return "–" if value is None or not of else f"{value / of:.2f}"


def final_table(lines: list[dict[str, Any]], facts: dict[str, str]) -> Table:
    """What the run achieved and what it cost. `facts` are further rows, e.g. where the checkpoint is."""
    table = Table(show_header=False, title="run")
    evaluated = [line for line in lines if line.get("eval")]
    if evaluated:
        for name, first in evaluated[0]["eval"].items():
            last = evaluated[-1]["eval"].get(name, first)
            table.add_row(f"accuracy {name}", f"{first['accuracy']:.3f} before, {last['accuracy']:.3f} after")
    trained = [line for line in lines if line["iteration"] > 0]
    if trained:
        pilot = sum(line["num_samples_pilot"] for line in trained)
        pilot_tokens = sum(line["tokens_generated_pilot"] for line in trained)
        tokens = sum(line["tokens_generated_main"] for line in trained) + pilot_tokens
        table.add_row("samples", f"{trained[-1]['samples_total']:,} (pilot {pilot:,})")
        table.add_row("tokens generated", f"{tokens:,} (pilot {pilot_tokens:,})")
        table.add_row("variance, predicted", _mean_ratio(trained, "predicted_variance"))
        table.add_row("variance, realised", _mean_ratio(trained, "realised_variance"))
        total = sum(line["seconds"]["total"] for line in trained)
        for stage in (k for k in trained[-1]["seconds"] if k != "total"):
            share = sum(line["seconds"][stage] for line in trained) / total
            table.add_row(f"time in {stage}", f"{share:.0%}")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _mean_ratio(lines: list[dict[str, Any]], key: str) -> str:
    pairs = [(line[key], line[f"{key}_uniform"]) for line in lines if line[key] is not None and line[f"{key}_uniform"]]
    if not pairs:
        return "not measured"
    ratio = sum(p for p, _ in pairs) / sum(u for _, u in pairs)
    return f"{ratio:.2f} of the uniform plan's (sums over {len(pairs)} iterations)"
