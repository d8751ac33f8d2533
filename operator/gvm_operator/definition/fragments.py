"""What the schema says of the pieces of the Kubernetes API that the spec passes on, and how lists are merged.

The models take these pieces as they are; here stand the keys that the operator relies on. All other keys are kept.
"""

from typing import Any

Schema = dict[str, Any]

_KEYS = {
    "conditions": "type",
    "containers": "name",
    "datasets": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists whose entries have a name, which stands once and by which server-side apply merges. Others are one value."""


def complete(name: str, node: Schema) -> Schema:
    """A field's schema with what is known of its entries or parts, and of how it is merged."""
    if node.get("type") == "array":
        return {**node, "items": _entries().get(name, node["items"]), **_merging(name)}
    if name == "podTemplate":
        return {**node, "properties": _pod_template()}
    return node


def _merging(name: str) -> Schema:
    if name not in _KEYS:
        return {"x-kubernetes-list-type": "set" if name == "reportTo" else "atomic"}
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [_KEYS[name]]}


def _entries() -> dict[str, Schema]:
    variable = {
        "name": _text("Name of the variable."),
        "value": {"type": "string", "description": "Its value, where valueFrom does not tell it."},
    }
    mount = {"name": _text("Name of the volume."), "mountPath": _text("Where the container sees it.")}
    return {
        "env": _open(required=["name"], properties=variable),
        "volumes": _open(required=["name"], properties={"name": _text("Name of the volume.")}),
        "volumeMounts": _open(required=["name", "mountPath"], properties=mount),
        "imagePullSecrets": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": _text("Name of the Secret.")},
        },
    }


def _pod_template() -> dict[str, Schema]:
    name = _text("Name of the container: vllm, allocator, learner, or another.")
    containers = {
        "type": "array",
        "description": "Containers to change, by their names, and further ones.",
        "items": _open(required=["name"], properties={"name": name}),
        **_merging("containers"),
    }
    return {
        "metadata": _open(description="Labels and annotations of the pods."),
        "spec": _open(description="What a pod's spec may hold.", properties={"containers": containers}),
    }


def _open(**known: Any) -> Schema:
    """An object of which some is known; what else it holds is kept."""
    return {"type": "object", **known, "x-kubernetes-preserve-unknown-fields": True}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description, "minLength": 1}
