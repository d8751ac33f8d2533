"""From pydantic's JSON schema to a structural one: no references, one type a field, bounds as Kubernetes writes them.

Descriptions and defaults are kept. A field that may be None is one that may be left out: the API server drops a null
where the schema is not nullable, so that rules need only ask `has()`.
"""

from typing import Any

from gvm_operator.definition import fragments

Schema = dict[str, Any]

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
    "maxProperties",
)


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
    if schema.get("default") is not None:
        result["default"] = _without_nulls(schema["default"])
    if schema.get("type") == "array":
        items = schema.get("items") or schema["prefixItems"][0]  # pairs hold one kind of thing
        result["items"] = _structural(items, definitions)
    if schema.get("type") == "object":
        result |= _object(schema, definitions)
    return result


def _object(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    if "properties" in schema:
        fields = {name: _structural(each, definitions) for name, each in schema["properties"].items()}
        result: Schema = {"properties": {name: fragments.complete(name, node) for name, node in fields.items()}}
        return result | ({"required": schema["required"]} if "required" in schema else {})
    values = schema.get("additionalProperties", True)
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    kinds = {each.get("type"): each for each in values.get("anyOf", [values])}
    if kinds.keys() == {"string", "integer"}:
        bounds = {key: value for each in kinds.values() for key, value in each.items() if key != "type"}
        return {"additionalProperties": {"x-kubernetes-int-or-string": True, **bounds}}
    if len(kinds) > 1:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _structural(values, definitions)}


def _without_nulls(default: Any) -> Any:
    """A default as the API server takes it: complete, since it is held against the rules before others fill it in."""
    if not isinstance(default, dict):
        return default
    return {name: _without_nulls(value) for name, value in default.items() if value is not None}


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A reference replaced by what it names, and a field that may be null by one of its type."""
    while "$ref" in schema or "anyOf" in schema or "allOf" in schema:
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "allOf")}
        if "$ref" in schema:
            target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        else:
            choices = schema.get("anyOf") or schema["allOf"]
            kinds = [each for each in choices if each.get("type") != "null"]
            assert len(kinds) == 1, f"one type a field: {choices}"
            target = kinds[0]
        schema = {**target, **rest}
    return schema
