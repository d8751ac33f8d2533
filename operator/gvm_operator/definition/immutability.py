"""CEL rules that hold a job that was started to what it was started as, but for the fields that may change.

`acceptance` does the same for clusters that are too old for rules.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gvm_api.spec import JobSpec
from gvm_operator.acceptance import MUTABLE_RUN_POLICY

MUTABLE = {"rollout": ("replicas",), "run_policy": MUTABLE_RUN_POLICY}
"""Sections of which some fields may change once the job was started, and which."""


class Rule(NamedTuple):
    """A CEL expression over `self` (and `oldSelf`), and what to say where it is false."""

    rule: str
    message: str


def rules() -> Iterator[Rule]:
    """What was started stays what it is, but for the few fields of which the operator says how they may change."""
    for name, section in JobSpec.model_fields.items():
        path = f"spec.{section.alias}"
        if name not in MUTABLE:
            yield _unchanged(path, f"self.{path} == oldSelf.{path}")
            continue
        for field_name, field in _fields(section).items():
            if field_name not in MUTABLE[name]:
                yield _unchanged(f"{path}.{field.alias}", _same(f"{path}.{field.alias}", field.default is None))
    # Equality of a list by names takes no heed of its order, and the first data set is the one that counts.
    order = ".spec.evaluation.datasets.map(d, d.name)"
    yield _unchanged("spec.evaluation.datasets", f"self{order} == oldSelf{order}")


def mutable_paths() -> list[str]:
    """What may change while a job runs, e.g. spec.rollout.replicas."""
    sections = {name: JobSpec.model_fields[name] for name in MUTABLE}
    return [
        f"spec.{section.alias}.{_fields(section)[field].alias}"
        for name, section in sections.items()
        for field in MUTABLE[name]
    ]


def _fields(section: FieldInfo) -> dict[str, FieldInfo]:
    model = section.annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model.model_fields


def _same(path: str, is_optional: bool) -> str:
    same = f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || {same})" if is_optional else same


def _unchanged(path: str, same: str) -> Rule:
    return Rule(
        f"!has(oldSelf.status) || !has(oldSelf.status.startTime) || ({same})",
        f"{path} cannot change once the job was started; change it back, or make a job of another name",
    )
