"""Which runs are compared with which: one group a policy or label, read from the command line. Knows no statistics."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gvm_cli.recorded_run import Run, read_run

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+:-]{0,39}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs that are averaged: of one policy, or of one label."""

    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The runs' seeds, in their order."""
        return tuple(run.job.spec.algorithm.seed for run in self.runs)

    @property
    def directories(self) -> str:
        """Where the runs are, for messages."""
        return ", ".join(str(run.directory) for run in self.runs)


def read_groups(given: Sequence[str]) -> tuple[Group, ...]:
    """Groups of what the command line names, in its order: RUN_DIR or LABEL=RUN_DIR each.

    A run without a label belongs to its allocation policy. Files are passed over, as a shell's pattern may name the
    job file beside a run; after a label, patterns are resolved here, since a shell does not.

    Raises:
        ValueError: a label is none, or there is no such run.
    """
    members: dict[str, list[Run]] = {}
    for text in given:
        label, directories = _parse(text)
        for directory in directories:
            run = read_run(directory)
            members.setdefault(label or run.job.spec.allocation.policy, []).append(run)
    return tuple(Group(label=label, runs=tuple(runs)) for label, runs in members.items())


def _parse(text: str) -> tuple[str, list[Path]]:
    """A label, empty for none, and run directories."""
    path = Path(text)
    if path.is_file():
        return "", []
    label, equals, rest = text.partition("=")
    if path.exists() or not equals:
        return "", [path]
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{text}: {label!r} is no label; write letters, digits and ._+:- (40 at most) before the =")
    if Path(rest).is_dir():
        return label, [Path(rest)]
    # Path.glob takes no absolute patterns.
    found = [Path(each) for each in sorted(glob.glob(rest)) if Path(each).is_dir()]  # noqa: PTH207
    if not found:
        raise ValueError(f"{text}: there is no directory {rest}; give that of a run")
    return label, found
