"""docs/job-reference.md, every field of spec and status: `python -m gvm_operator.definition.reference`.

Owns how the schema is written for people. What a field means stands in the models' docstrings.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from gvm_api import names
from gvm_api.spec import API_VERSION, KIND, PodSpec
from gvm_operator.definition.crd import schema
from gvm_operator.definition.immutability import mutable_paths
from gvm_operator.definition.rules import rules
from gvm_operator.definition.structural import Schema

_HEAD = f"""\
# The job, field by field

Written by `make generate` from the models in `operator/gvm_api/`: edit those.

A job is an object of kind `{KIND}`, apiVersion `{API_VERSION}`. `gvm validate FILE` checks one;
[examples/](../examples) holds files to start from. The least that a job says:

```yaml
apiVersion: {API_VERSION}
kind: {KIND}
metadata:
  name: my-job                           # at most {names.MAX_JOB_NAME} characters
spec:
  model: {{path: Qwen/Qwen2.5-Math-1.5B}}
  dataset: {{path: train.jsonl}}
```

A field is **required**, or has a default, or may be left out (–), which its meaning calls None. A quantity is an
amount as Kubernetes writes it: `500m`, `4`, `16Gi`."""


class Row(NamedTuple):
    """One field, as the page shows it."""

    path: str
    kind: str
    default: str
    meaning: str


def text() -> str:
    """The whole page as Markdown."""
    job = schema()["properties"]
    status = _section("status", job["status"]["description"], list(_rows(job["status"], "")), has_defaults=False)
    return "\n\n".join((_HEAD, *_sections(job["spec"]), status, _fitting(), _changing())) + "\n"


def _sections(spec: Schema) -> Iterator[str]:
    for name, section in spec["properties"].items():
        meaning = section["description"]
        if name in names.ROLES:
            meaning += " The fields of [pods of every role](#pods-of-every-role) come besides."
        yield _section(f"spec.{name}", meaning, [row for row in _rows(section, "") if not _is_of_pods(name, row)])
    rows = [row for row in _rows(spec["properties"][names.ROLLOUT], "") if _is_of_pods(names.ROLLOUT, row)]
    yield _section("Pods of every role", "Fields of spec.rollout, spec.learner and spec.allocator alike.", rows)


def _is_of_pods(section: str, row: Row) -> bool:
    of_pods = {field.alias for field in PodSpec.model_fields.values()}
    return section in names.ROLES and re.split(r"[.\[`]", row.path)[1] in of_pods


def _section(title: str, meaning: str, rows: list[Row], *, has_defaults: bool = True) -> str:
    shown = [row if has_defaults else (row.path, row.kind, row.meaning) for row in rows]
    head = ("field", "type", "default", "meaning") if has_defaults else ("field", "type", "meaning")
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *shown)]
    return f"## {title}\n\n{' '.join(meaning.split())}\n\n" + "\n".join(f"| {line} |" for line in lines)


def _rows(node: Schema, path: str) -> Iterator[Row]:
    """Fields of an object and of what is in it, as far as the schema knows all of that."""
    for name, child in node["properties"].items():
        default = _default(child, is_required=name in node.get("required", ()))
        yield Row(f"`{path}{name}`", _kind(child), default, _cell(child.get("description", "")))
        for inner, place in ((child, f"{path}{name}."), (child.get("items", {}), f"{path}{name}[].")):
            if _is_known(inner):
                yield from _rows(inner, place)


def _is_known(node: Schema) -> bool:
    return "properties" in node and "x-kubernetes-preserve-unknown-fields" not in node


def _default(node: Schema, *, is_required: bool) -> str:
    if is_required:
        return "**required**"
    if "default" not in node:
        return "–"
    if _is_known(node):
        return "as below"
    value = node["default"]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _kind(node: Schema) -> str:
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string") or node.get("pattern", "").endswith("[numkMGTPE])?$"):
        return "quantity"
    if node["type"] == "array":
        return f"list of {_kind(node['items'])}"
    if node["type"] == "object" and "additionalProperties" in node:
        return f"map to {_kind(node['additionalProperties'])}"
    return str(node["type"]) + _bounds(node)


def _bounds(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above = f" {'>' if node.get('exclusiveMinimum') else '≥'} {low}" if low is not None else ""
    below = f" {'<' if node.get('exclusiveMaximum') else '≤'} {high}" if high is not None else ""
    return f"{above} and{below}" if above and below else above + below


def _cell(meaning: str) -> str:
    return " ".join(meaning.split()).replace("|", "\\|")


def _fitting() -> str:
    lines: dict[str, None] = {}
    for path, found in rules().items():
        place = ".".join("*" if part in names.ROLES and path.count(".") > 1 else part for part in path.split("."))
        said = [rule.message for rule in found if "oldSelf" not in rule.rule]
        lines |= {f"- {f'`{place}`: ' if place else ''}{_cell(message)}": None for message in said}
    head = "Refused at admission (by Kubernetes 1.25 and later), by the operator and by `gvm`:"
    return f"## What must fit together\n\n{head}\n\n" + "\n".join(lines)


def _changing() -> str:
    head = "## What may change while a job runs\n\nOnce `status.startTime` is set, nothing of the spec may change but"
    return f"{head}\n\n" + "\n".join(f"- `{path}`" for path in mutable_paths())


if __name__ == "__main__":
    print(text(), end="")
