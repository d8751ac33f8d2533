"""A handful of samples for the report: of every verdict, from hard prompts to easy ones. Reads, and judges nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

from gvm_cli.page import Card
from gvm_cli.recorded_samples import find
from gvm_cli.sample_query import Query, Row
from gvm_cli.terminal import printable

_NUM_SAMPLES = 8
_MOST_CHARACTERS = 1500
_OUTCOMES = ("accepted", "rejected", "timeout", "error")
_VERDICTS = {"accepted": "good", "rejected": "bad"}


def newest_samples(run_dir: Path) -> tuple[list[Row], int]:
    """Samples of the newest iteration that has any, and how many newer files are torn; none where it keeps none."""
    latest = _latest(run_dir / "latest_samples.json")
    if latest:
        return latest, 0
    files = sorted(path for path in (run_dir / "samples").glob("*.parquet") if path.stem.isdecimal())
    for num_torn, path in enumerate(reversed(files)):
        try:
            return list(find(run_dir, {int(path.stem): path}, Query())), num_torn
        except ValueError:  # a kill left it half-written; the one before will do, and the caller says so
            continue
    return [], len(files)


def varied(rows: Sequence[Row], num_samples: int = _NUM_SAMPLES) -> list[Row]:
    """At most so many of them, of as many prompts as may be: every outcome in turn, from low accept rates to high."""
    by_outcome = {outcome: _one_a_prompt(rows, outcome) for outcome in _OUTCOMES}
    present = [group for group in by_outcome.values() if group]
    chosen: list[Row] = []
    for place, group in enumerate(present):
        room = (num_samples - len(chosen)) // (len(present) - place)
        chosen += _spread(group, room)
    return chosen


def sample_card(row: Row) -> Card:
    """A sample as the page shows it; what would not show is written as an escape."""
    outcome = row.get("outcome") or "not judged"
    reward = row.get("reward")
    facts = [
        f"{row.get('num_tokens', '–')} tokens" + (f" ({row['finish_reason']})" if row.get("finish_reason") else ""),
        f"{row.get('stage', '–')} stage",
        *(f"{name} {row[key]:.3g}" for name, key in _NUMBERS if row.get(key) is not None),
    ]
    return Card(
        heading=printable(str(row.get("prompt_id"))),
        verdict=_VERDICTS.get(outcome, ""),
        verdict_text=outcome if reward is None else f"{outcome}, reward {reward:g}",
        facts=" · ".join(facts),
        texts=[(label, _cut(printable(row.get(label) or ""))) for label in ("prompt", "answer", "completion")],
    )


_NUMBERS = (("p", "accept_rate"), ("G", "grad_norm"), ("n_i", "sample_size"))


def _latest(path: Path) -> list[Row]:
    """latest_samples.json; nothing where it is missing or torn."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    rows = content.get("samples") if isinstance(content, dict) else None
    return [row | {"iteration": content.get("iteration")} for row in rows or [] if isinstance(row, dict)]


def _one_a_prompt(rows: Sequence[Row], outcome: str) -> list[Row]:
    """The first of each prompt, lowest accept rate first."""
    first = {row.get("prompt_id"): row for row in reversed(rows) if row.get("outcome") == outcome}
    return sorted(first.values(), key=lambda row: (row.get("accept_rate") is None, row.get("accept_rate") or 0.0))


def _spread(rows: Sequence[Row], num: int) -> list[Row]:
    """So many of them, evenly spaced, both ends among them."""
    if len(rows) <= num:
        return list(rows)
    return [rows[place * (len(rows) - 1) // max(num - 1, 1)] for place in range(num)]


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"
