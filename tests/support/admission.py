"""An API server as far as admission goes, for tests: one that knows CEL, which an old one does not.

It fills in the schema's defaults, holds a job against the schema (unknown fields refused, as `kubectl apply` has it)
and against its rules, each in the order and with the typing of a real one.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import celpy
from celpy import celtypes
from jsonschema import Draft4Validator

Schema = dict[str, Any]
# https://kubernetes.io/docs/reference/using-api/cel/: what a field's name must not be as it is.
RESERVED = (
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
)
RESERVED += ("let", "loop", "package", "namespace", "return", "var", "void", "while")
KEEP = "x-kubernetes-preserve-unknown-fields"


class Refusal(NamedTuple):
    """Why a job is not admitted: where, and what is said; `rule` is that of a validation rule."""

    path: str
    message: str
    rule: str = ""


class ApiServer:
    """Admits or refuses jobs as the CustomResourceDefinition says."""

    def __init__(self, definition: Schema) -> None:
        self.schema: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        # Metadata belongs to Kubernetes; a schema cannot speak of it.
        implied = {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", KEEP: True},
        }
        self._root = {**self.schema, "properties": {**self.schema["properties"], **implied}}
        self._validator = Draft4Validator(_strict(self._root))
        self._programs: dict[str, celpy.Runner] = {}

    def admit(self, job: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> list[Refusal]:
        """Every reason to refuse a job that is created, or that is to replace an old one."""
        new, before = self.defaulted(job), self.defaulted(old) if old else None
        faults = [
            Refusal(fault.json_path.removeprefix("$."), fault.message) for fault in self._validator.iter_errors(new)
        ]
        faults += _doubles(new, self._root, "")
        return faults or list(self.broken_rules(new, self._root, "", before))

    def defaulted(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """A job with nulls dropped and defaults filled in."""
        found: dict[str, Any] = copy.deepcopy(dict(job))
        _fill_in(found, self._root)
        return found

    def nodes(self) -> list[tuple[str, Schema]]:
        """Path and schema of everything in a job, e.g. spec.evaluation.datasets[].name."""
        return list(nodes(self.schema, ""))

    def rules(self) -> list[tuple[str, str, str]]:
        """Path, expression and message of each rule."""
        return [
            (path, each["rule"], each["message"])
            for path, node in self.nodes()
            for each in node.get("x-kubernetes-validations", ())
        ]

    def broken_rules(self, new: Any, schema: Schema, path: str, old: Any = None) -> Iterator[Refusal]:
        """What the rules at a path and below say against a value, and against its change from an old one."""
        for place, value, node in _values(new, schema, path):
            # Only the whole job has an old self here: no rule below asks for one.
            old_self = {"oldSelf": _cel(old, schema)} if old is not None and place == "" else {}
            for each in node.get("x-kubernetes-validations", ()):
                if "oldSelf" in each["rule"] and not old_self:
                    continue  # a rule on changes, where nothing is changed
                if not self._holds(each["rule"], {"self": _cel(value, node), **old_self}):
                    yield Refusal(place, each["message"], each["rule"])

    def _holds(self, rule: str, activation: dict[str, Any]) -> bool:
        if rule not in self._programs:
            environment = celpy.Environment()
            functions = {"sum": lambda values: celtypes.IntType(sum(values))}
            self._programs[rule] = environment.program(environment.compile(rule), functions=functions)
        try:
            result = self._programs[rule].evaluate(activation)
        except celpy.CELEvalError:
            return False  # as the API server has it: a rule that fails refuses
        assert isinstance(result, celtypes.BoolType), rule
        return bool(result)


def nodes(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every node of a schema, with its path such as spec.evaluation.datasets[].name."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".lstrip("."))
    if isinstance(node.get("items"), dict):
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}.*")


def _values(value: Any, node: Schema, path: str) -> Iterator[tuple[str, Any, Schema]]:
    yield path, value, node
    if isinstance(value, dict):
        for name, child in node.get("properties", {}).items():
            if name in value:
                yield from _values(value[name], child, f"{path}.{name}".lstrip("."))
    if isinstance(value, list):
        for each in value:
            yield from _values(each, node["items"], f"{path}[]")


def _fill_in(value: Any, node: Schema) -> None:
    if isinstance(value, dict):
        for name, child in node.get("properties", {}).items():
            if value.get(name) is None:
                value.pop(name, None)
                if "default" in child:
                    value[name] = copy.deepcopy(child["default"])
            else:
                _fill_in(value[name], child)
    if isinstance(value, list):
        for each in value:
            _fill_in(each, node.get("items", {}))


def _strict(node: Schema) -> Schema:
    """The schema for a validator of JSON schemas, which knows nothing of Kubernetes' own words."""
    result = {key: value for key, value in node.items() if not key.startswith("x-") and key != "default"}
    if node.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    for key in ("items", "additionalProperties"):
        if key in node:
            result[key] = _strict(node[key])
    if "properties" in node:
        result["properties"] = {name: _strict(child) for name, child in node["properties"].items()}
        result["additionalProperties"] = bool(node.get(KEEP))
    return result


def _doubles(value: Any, node: Schema, path: str) -> list[Refusal]:
    """Entries of a list by names of which two have the same, or of a set of which two are the same."""
    found = []
    for place, each, its_node in _values(value, node, path):
        for key in its_node.get("x-kubernetes-list-map-keys", ()) if isinstance(each, list) else ():
            keys = [entry.get(key) for entry in each if isinstance(entry, dict)]
            found += [Refusal(place, f"duplicate {key} {name!r}") for name in {k for k in keys if keys.count(k) > 1}]
        if its_node.get("x-kubernetes-list-type") == "set" and len(set(each)) < len(each):
            found.append(Refusal(place, "duplicate entry"))
    return found


def _cel(value: Any, node: Schema) -> Any:
    """A value in CEL's types, as its schema has them: 1 is a double where the schema says number."""
    if isinstance(value, dict):
        fields = node.get("properties", {})
        inner = node.get("additionalProperties", {})
        return celtypes.MapType(
            {
                celtypes.StringType(f"__{name}__" if name in RESERVED and fields else name): _cel(
                    each, fields.get(name, inner)
                )
                for name, each in value.items()
            }
        )
    if isinstance(value, list):
        return celtypes.ListType([_cel(each, node.get("items", {})) for each in value])
    if node.get("type") == "number":
        return celtypes.DoubleType(value)
    return celpy.json_to_cel(value)
