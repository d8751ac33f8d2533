"""Reads a job file into a GVMTrainingJob, and says what is wrong in lines that name field, value and fix."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gvm_api import yaml_format
from gvm_api.spec import API_VERSION, KIND, GVMTrainingJob

_MAX_BYTES = 2**20  # etcd stores no object above 1.5 MiB
_MAX_VALUE, _MAX_LINE = 80, 400


class InvalidJobError(ValueError):
    """The job file cannot be used. `problems` has one line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_job(path: Path) -> GVMTrainingJob:
    """Read and validate a job file (YAML or JSON, one document).

    Raises:
        InvalidJobError: the file cannot be read or parsed, or it is no valid GVMTrainingJob.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        raise InvalidJobError([f"{path}: cannot be read ({error}); give the path of a job file"]) from error
    if len(content) > _MAX_BYTES:
        raise InvalidJobError([f"{path}: is larger than {_MAX_BYTES} bytes; give the path of a job file"])
    return parse_job(text, source=str(path))


def parse_job(text: str, *, source: str) -> GVMTrainingJob:
    """Validate the text of a job file; `source` is its name in messages.

    Raises:
        InvalidJobError: as for `load_job`.
    """
    try:
        documents = yaml_format.load_all(text)
    except ValueError as error:
        raise InvalidJobError([one_line(f"{source}: {error}")]) from error
    if len(documents) != 1:
        fault = f"holds {len(documents)} documents"
    elif not isinstance(documents[0], dict):
        fault = f"holds a {type(documents[0]).__name__}"
    else:
        return validate_job(documents[0])
    raise InvalidJobError([f"{source}: {fault}; write one object of kind {KIND}, apiVersion {API_VERSION}"])


def validate_job(manifest: dict[str, Any]) -> GVMTrainingJob:
    """Validate a manifest that is already parsed. As strict as the API server: "8" is no integer.

    Raises:
        InvalidJobError: it is no valid GVMTrainingJob.
    """
    try:
        text = json.dumps(manifest)
    except (ValueError, RecursionError) as error:
        raise InvalidJobError([f"the job cannot be written as JSON ({error}); remove what contains itself"]) from error
    try:
        return GVMTrainingJob.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        faults = [dict(e) for e in error.errors(include_url=False)]
        raise InvalidJobError(list(_describe(manifest, faults))) from error


def _describe(manifest: Any, faults: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line a fault.

    Of a union, pydantic reports each member that did not fit: they become one. A fault within a list or an object
    explains what is then said of the whole.
    """
    by_place: dict[tuple[str | int, ...], list[dict[str, Any]]] = {}
    for fault in faults:
        place = fault["loc"] if fault["type"] == "missing" else _existing(manifest, fault["loc"])
        by_place.setdefault(place, []).append({**fault, "loc": place})
    explained = {place[:depth] for place in by_place for depth in range(len(place))}
    for same_place in (faults for place, faults in by_place.items() if place not in explained):
        messages = dict.fromkeys(fault["msg"] for fault in same_place)
        first = same_place[0]
        yield describe_problem(GVMTrainingJob, {**first, "msg": " or ".join(messages)})


def _existing(value: Any, location: Sequence[str | int]) -> tuple[str | int, ...]:
    """As much of a location as the input has; what follows is pydantic's name of a union's member."""
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (LookupError, TypeError):
            return tuple(location[:depth])
    return tuple(location)


def describe_problem(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """One line for one pydantic error: the field's path, the value, the fix."""
    location: tuple[str | int, ...] = error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    kind, value = error["type"], one_line(repr(error.get("input")), _MAX_VALUE)
    if kind == "extra_forbidden":
        text = f"{path}: unknown field (value {value}); {_suggestion(model, location)}"
    elif kind == "missing":
        text = f"{path}: is missing; add {location[-1]}"
    elif kind == "value_error":
        text = _at_field(model, location, path, str(error["ctx"]["error"]))
    else:
        message = error["msg"][0].lower() + error["msg"][1:]
        text = f"{path}: {value} is refused; {message}"
    return one_line(text.removeprefix(": "))


def one_line(text: str, limit: int = _MAX_LINE) -> str:
    """The text in one line of at most `limit` characters, the middle left out where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit // 2 - 2]} … {line[-(limit // 2 - 1) :]}"


def _at_field(model: type[BaseModel], location: Sequence[str | int], path: str, message: str) -> str:
    """A model's own check speaks of its fields by name; the line's path leads to the first that it names."""
    words, _, rest = message.partition(" ")
    if words.split(".")[0] in _fields(_model_at(model, location)):
        return f"{path}.{words}: {rest}".lstrip(".")
    return f"{path}: {message}"


def _suggestion(model: type[BaseModel], location: Sequence[str | int]) -> str:
    known = _fields(_model_at(model, location[:-1]))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"remove it, or use one of: {', '.join(sorted(known))}"


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    for part in location:
        field = next((f for f in model.model_fields.values() if f.alias == part), None)
        if field is None:
            continue  # an index into a list
        nested = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
        model = next((a for a in nested if issubclass(a, BaseModel)), model)
    return model
