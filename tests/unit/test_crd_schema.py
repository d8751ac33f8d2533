"""The generated CustomResourceDefinition: fresh, structural, small, and true to the models."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gvm_api import yaml_format
from gvm_api.spec import JobSpec
from gvm_operator.definition.crd import definition
from gvm_operator.definition.structural import structural

ROOT = Path(__file__).parents[2]
FILE = ROOT / "crds/gvmtrainingjobs.yaml"


def schema() -> dict[str, Any]:
    found: dict[str, Any] = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}.{key}")


def test_the_committed_file_is_what_make_generate_writes() -> None:
    assert FILE.read_text() == yaml_format.dump(definition()), "run `make generate`"


def test_every_node_has_one_type_and_no_reference() -> None:
    for path, node in nodes(schema(), ""):
        assert ("type" in node) != node.get("x-kubernetes-int-or-string", False), path
        assert not node.keys() & {"$ref", "$defs", "anyOf", "oneOf", "title", "const", "prefixItems"}, path
        # Not nullable: the API server then drops a null, as if the field were left out.
        assert "nullable" not in node, path
        if node.get("type") == "array":
            assert "items" in node, path
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            assert node.get(key, True) is True, path


def test_every_field_of_the_spec_is_described() -> None:
    spec = schema()["properties"]["spec"]
    undescribed = [
        path
        for path, node in nodes(spec, "spec")
        if "description" not in node and not path.endswith((".items", ".additionalProperties"))
    ]
    assert undescribed == []


def test_every_list_says_how_it_is_merged_and_entries_have_the_names_by_which_they_are() -> None:
    merged = {}
    for path, node in nodes(schema(), ""):
        if node.get("type") == "array":
            keys = node.get("x-kubernetes-list-map-keys", [])
            of_words = "set" if path.endswith(".reportTo") else "atomic"
            assert node["x-kubernetes-list-type"] == ("map" if keys else of_words), path
            assert set(keys) <= set(node["items"].get("required", [])), path
            assert all("default" not in node["items"]["properties"][key] for key in keys), path
            merged[path.removeprefix(".properties")] = keys
    assert merged[".status.conditions"] == ["type"]
    assert merged[".spec.evaluation.datasets"] == ["name"]
    assert merged[".spec.learner.env"] == merged[".spec.learner.volumes"] == ["name"]
    assert merged[".spec.learner.volumeMounts"] == ["mountPath"]
    assert merged[".spec.learner.tolerations"] == merged[".spec.learner.adamBetas"] == []


def test_every_column_shows_a_field_of_its_type() -> None:
    known = dict(nodes(schema(), ""))
    (version,) = definition()["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == (
        ["Phase", "Iteration", "Accuracy", "Accept", "Rollout", "Learner", "Age"]
    )
    assert [c["name"] for c in columns if c.get("priority") == 1] == ["Restarts", "Message"]
    for column in columns:
        if column["name"] != "Age":
            assert known[column["jsonPath"]]["type"] == column["type"]


def test_every_default_is_complete_and_keeps_the_rules(api_server: Any) -> None:
    # An API server holds the default of an object against its schema and rules before it fills anything in.
    checked = 0
    for path, node in nodes(schema()["properties"]["spec"], "spec"):
        if "default" in node and "properties" in node:
            filled = {name: child["default"] for name, child in node["properties"].items() if "default" in child}
            assert node["default"] == filled, path
            assert list(api_server.broken_rules(node["default"], node, path)) == [], path
            checked += 1
    assert checked >= 12


def test_it_is_small_enough_for_kubectl_apply() -> None:
    assert len(FILE.read_bytes()) < 200 * 1024


def test_defaults_are_the_models_own_and_the_status_has_none() -> None:
    def defaults(node: dict[str, Any]) -> dict[str, Any]:
        return {k: v["default"] for k, v in node.get("properties", {}).items() if "default" in v}

    spec = schema()["properties"]["spec"]["properties"]
    job = JobSpec.model_validate({"model": {"path": "m"}, "dataset": {"path": "d"}})
    for section, node in spec.items():
        filled = job.model_dump(mode="json", exclude_none=True)[section]
        for field, value in defaults(node).items():
            assert filled[field] == value, f"{section}.{field}"
    assert not any("default" in node for _, node in nodes(schema()["properties"]["status"], "status"))


def test_bounds_and_mixed_values_are_said_as_kubernetes_says_them() -> None:
    found = structural(JobSpec.model_json_schema())["properties"]
    assert found["learner"]["properties"]["learningRate"]["minimum"] == 0
    assert found["learner"]["properties"]["learningRate"]["exclusiveMinimum"] is True
    assert found["model"]["properties"]["revision"].keys() == {"type", "description", "maxLength"}
    assert found["runPolicy"]["properties"]["backoffLimit"]["maximum"] == 1000
    limits = found["rollout"]["properties"]["resources"]["properties"]["limits"]
    amount = limits["additionalProperties"]
    assert (limits["maxProperties"], amount["x-kubernetes-int-or-string"], amount["minimum"]) == (32, True, 0)
    assert amount["pattern"] == found["storage"]["properties"]["size"]["pattern"]
    assert re.search(amount["pattern"], "1.5Gi")
    assert not re.search(amount["pattern"], "16 GB")
    assert found["rollout"]["properties"]["podTemplate"]["x-kubernetes-preserve-unknown-fields"] is True
    assert found["learner"]["properties"]["zeroStage"]["enum"] == [0, 1, 2, 3]
