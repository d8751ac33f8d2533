"""Lays a user's pod template over ours, the way `kubectl patch` does: by key, and by name in lists."""

from typing import Any


def merge(base: Any, overlay: Any) -> Any:
    """`overlay` over `base`: mappings key by key, lists of named objects name by name, all else replaced.

    Example:
        merge({"containers": [{"name": "a", "image": "x"}]}, {"containers": [{"name": "a", "tty": True}]})
        gives {"containers": [{"name": "a", "image": "x", "tty": True}]}.
    """
    if isinstance(base, dict) and isinstance(overlay, dict):
        shared = {key: merge(base[key], overlay[key]) for key in base.keys() & overlay.keys()}
        return {**base, **overlay, **shared}
    if _is_named(base) and _is_named(overlay):
        extra = {_key(item): item for item in overlay}
        merged = [merge(item, extra.pop(_key(item), {})) for item in base]
        return merged + list(extra.values())
    return overlay


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value)


def _key(item: dict[str, Any]) -> Any:
    # One volume may be mounted at several paths.
    return item.get("mountPath", item["name"])
