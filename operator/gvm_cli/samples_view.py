"""How a sample looks on a terminal or in a file, and as a line of JSON. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rich.text import Text

from gvm_cli.sample_query import Row
from gvm_cli.terminal import printable

_STYLES = {"accepted": "bold green", "rejected": "bold red", "timeout": "bold yellow", "error": "bold yellow"}
_LABEL_COLUMNS = 12
# JSON escapes what is below U+0020 only.
_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")


def sample_text(row: Row) -> Text:
    """A sample in a few lines: what it is and how it was judged, then prompt, answer and completion.

    Example:
        train-0448  iteration 16  main 0  accepted  reward 1
          20 tokens (stop)  p 0.773  G 4.16  n_i 4  policy version 15
          prompt      12+25=
          answer      37
          completion  2+5+0=7;1+2+0=3;#37
    """
    outcome = row.get("outcome") or "not judged"
    length = f"{_shown(row.get('num_tokens'))} tokens"
    facts = [
        f"{length} ({row['finish_reason']})" if row.get("finish_reason") else length,
        f"p {_shown(row.get('accept_rate'), '.3f')}",
        f"G {_shown(row.get('grad_norm'), '.3g')}",
        f"n_i {_shown(row.get('sample_size'))}",
        f"policy version {_shown(row.get('policy_version'))}",
    ]
    place = f"  iteration {_shown(row.get('iteration'))}  {row.get('stage')} {_shown(row.get('index'))}  "
    shown = Text.assemble((printable(str(row["prompt_id"])), "bold"), place, (outcome, _STYLES.get(outcome, "")))
    shown.append(f"  reward {_shown(row.get('reward'), 'g')}\n  {'  '.join(facts)}\n")
    for label in ("prompt", "answer", "completion"):
        shown.append_text(_labelled(label, row.get(label)))
    return shown


def sample_json(row: Row) -> str:
    """A sample as one line of strict JSON, without control characters."""
    text = json.dumps(row, allow_nan=False, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _labelled(label: str, value: str | None) -> Text:
    """One line beside its label, or many below it, each behind a rule."""
    lines = printable(value or "").split("\n")
    if len(lines) == 1:
        return Text.assemble((f"  {label:<{_LABEL_COLUMNS}}", "dim"), lines[0], "\n")
    return Text.assemble((f"  {label}\n", "dim"), *_ruled(lines))


def _ruled(lines: list[str]) -> Iterator[tuple[str, str] | str]:
    for line in lines:
        yield ("  | ", "dim")
        yield f"{line}\n"


def _shown(value: Any, form: str = "") -> str:
    return "–" if value is None else format(value, form)
