"""The CustomResourceDefinition, generated from the spec's and the status's models: `python -m gvm_operator.crd`.

Owns the way from pydantic's JSON schema to a structural one: references inlined, one type a field, bounds as
Kubernetes writes them, defaults and descriptions kept. What a schema cannot say, the models check.
"""

from typing import Any

from gvm_api import yaml_format
from gvm_api.spec import API_VERSION, KIND, JobSpec
from gvm_api.status import JobStatus

Schema = dict[str, Any]

GROUP, _, VERSION = API_VERSION.partition("/")
PLURAL = "gvmtrainingjobs"
COLUMNS = (
    ("Phase", "string", ".status.phase"),
    ("Iteration", "integer", ".status.iteration"),
    ("Accuracy", "number", ".status.accuracy"),
    ("Accept", "number", ".status.acceptRate"),
    ("Rollout", "integer", ".status.rollout.ready"),
    ("Learner", "integer", ".status.learner.ready"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
_KEPT = (
    "type",
    "description",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
)


def definition() -> Schema:
    """The CustomResourceDefinition of GVMTrainingJob."""
    status = structural(JobStatus.model_json_schema())
    status.pop("default", None)
    schema = {
        "type": "object",
        "description": "One training run: vLLM servers, an allocator and a torchrun learner.",
        "required": ["spec"],
        "properties": {"spec": structural(JobSpec.model_json_schema()), "status": without_defaults(status)},
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": n, "type": t, "jsonPath": p} for n, t, p in COLUMNS],
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["gvmjob", "gvmjobs"],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }


def structural(schema: Schema) -> Schema:
    """A pydantic JSON schema as a structural schema."""
    return _structural(schema, schema.get("$defs", {}))


def without_defaults(schema: Schema) -> Schema:
    """The same without defaults: nothing may fill a status in but the operator."""
    kept = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in kept:
        kept["properties"] = {name: without_defaults(each) for name, each in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = without_defaults(kept["items"])
    return kept


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    schema = _resolved(schema, definitions)
    result = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    for bound, key in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if key in schema:
            result |= {bound: schema[key], key: True}
    if schema.get("nullable"):
        result["nullable"] = True
    elif "default" in schema:
        result["default"] = schema["default"]
    if schema.get("type") == "array":
        items = schema.get("items") or schema["prefixItems"][0]  # pairs hold one kind of thing
        result["items"] = _structural(items, definitions)
    if schema.get("type") == "object":
        result |= _object(schema, definitions)
    return result


def _object(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    if "properties" in schema:
        result: Schema = {
            "properties": {name: _structural(each, definitions) for name, each in schema["properties"].items()}
        }
        return result | ({"required": schema["required"]} if "required" in schema else {})
    values = schema.get("additionalProperties", True)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    types = {each.get("type") for each in values.get("anyOf", [values])}
    if types == {"string", "integer"}:
        return {"additionalProperties": {"x-kubernetes-int-or-string": True}}
    if len(types) > 1:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _structural(values, definitions)}


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A reference replaced by what it names, and a field that may be null by a nullable one of its type."""
    while "$ref" in schema or "anyOf" in schema or "allOf" in schema:
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "allOf")}
        if "$ref" in schema:
            target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        else:
            choices = schema.get("anyOf") or schema["allOf"]
            kinds = [each for each in choices if each.get("type") != "null"]
            assert len(kinds) == 1, f"one type a field: {choices}"
            target = kinds[0] | ({"nullable": True} if len(kinds) < len(choices) else {})
        schema = {**target, **rest}
    return schema


if __name__ == "__main__":
    print(yaml_format.dump(definition()), end="")
