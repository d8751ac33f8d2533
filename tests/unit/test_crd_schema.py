"""The generated CustomResourceDefinition: fresh, structural, small, and true to the models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gvm_api import yaml_format
from gvm_api.spec import JobSpec
from gvm_operator.crd import definition, structural

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
        assert "type" in node or node == {"x-kubernetes-int-or-string": True}, path
        assert not node.keys() & {"$ref", "$defs", "anyOf", "oneOf", "title", "const", "prefixItems"}, path
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


def test_it_is_small_enough_for_kubectl_apply() -> None:
    assert len(FILE.read_bytes()) < 200 * 1024


def test_defaults_are_the_models_own_and_the_status_has_none() -> None:
    def defaults(node: dict[str, Any]) -> dict[str, Any]:
        return {k: v["default"] for k, v in node.get("properties", {}).items() if "default" in v}

    spec = schema()["properties"]["spec"]["properties"]
    job = JobSpec.model_validate({"model": {"path": "m"}, "dataset": {"path": "d"}})
    for section, node in spec.items():
        filled = job.model_dump(mode="json")[section]
        for field, value in defaults(node).items():
            assert filled[field] == value, f"{section}.{field}"
    assert not any("default" in node for _, node in nodes(schema()["properties"]["status"], "status"))


def test_bounds_nullables_and_mixed_values_are_said_as_kubernetes_says_them() -> None:
    found = structural(JobSpec.model_json_schema())["properties"]
    assert found["learner"]["properties"]["learningRate"]["minimum"] == 0
    assert found["learner"]["properties"]["learningRate"]["exclusiveMinimum"] is True
    assert found["model"]["properties"]["revision"]["nullable"] is True
    limits = found["rollout"]["properties"]["resources"]["properties"]["limits"]
    assert limits["additionalProperties"] == {"x-kubernetes-int-or-string": True}
    assert found["rollout"]["properties"]["podTemplate"]["x-kubernetes-preserve-unknown-fields"] is True
    assert found["learner"]["properties"]["zeroStage"]["enum"] == [0, 1, 2, 3]


def test_the_example_has_no_field_that_the_schema_does_not_know() -> None:
    def unknown(value: Any, node: dict[str, Any], path: str) -> list[str]:
        if isinstance(value, list):
            return [p for i, v in enumerate(value) for p in unknown(v, node["items"], f"{path}[{i}]")]
        if not isinstance(value, dict) or node.get("x-kubernetes-preserve-unknown-fields"):
            return []
        known = node.get("properties", {})
        found = [f"{path}.{key}" for key in value if key not in known]
        return found + [p for k, v in value.items() if k in known for p in unknown(v, known[k], f"{path}.{k}")]

    job = yaml.safe_load((ROOT / "examples/arithmetic.yaml").read_text())
    assert unknown(job["spec"], schema()["properties"]["spec"], "spec") == []
