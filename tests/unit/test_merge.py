"""A pod template laid over ours: by key, by name in lists, and otherwise replaced."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvm_operator.merge import merge

CASES: list[tuple[str, Any, Any, Any]] = [
    ("keys are added", {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ("values are replaced", {"a": 1}, {"a": 2}, {"a": 2}),
    ("objects are merged", {"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
    ("an object replaces a value", {"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
    ("plain lists are replaced", {"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    (
        "unnamed objects are replaced",
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"key": "b"}]},
        {"tolerations": [{"key": "b"}]},
    ),
    (
        "containers merge by name, in order, new ones last",
        [{"name": "a", "image": "x"}, {"name": "b"}],
        [{"name": "c"}, {"name": "a", "tty": True}],
        [{"name": "a", "image": "x", "tty": True}, {"name": "b"}, {"name": "c"}],
    ),
    (
        "variables merge within containers",
        [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}],
        [{"name": "a", "env": [{"name": "X", "value": "3"}]}],
        [{"name": "a", "env": [{"name": "X", "value": "3"}, {"name": "Y", "value": "2"}]}],
    ),
    (
        "one volume can be mounted twice",
        {"volumeMounts": [{"name": "run", "mountPath": "/gvm/run"}]},
        {
            "volumeMounts": [
                {"name": "run", "mountPath": "/models", "subPath": "m"},
                {"name": "run", "mountPath": "/data", "subPath": "d"},
            ]
        },
        {
            "volumeMounts": [
                {"name": "run", "mountPath": "/gvm/run"},
                {"name": "run", "mountPath": "/models", "subPath": "m"},
                {"name": "run", "mountPath": "/data", "subPath": "d"},
            ]
        },
    ),
    (
        "a mount is changed by its path",
        {"volumeMounts": [{"name": "run", "mountPath": "/gvm/run"}]},
        {"volumeMounts": [{"name": "other", "mountPath": "/gvm/run"}]},
        {"volumeMounts": [{"name": "other", "mountPath": "/gvm/run"}]},
    ),
    ("an empty list of named objects changes nothing", [{"name": "a"}], [], [{"name": "a"}]),
    ("a list takes the place of none", {"a": []}, {"a": [{"key": 1}]}, {"a": [{"key": 1}]}),
]


@pytest.mark.parametrize(("name", "base", "overlay", "expected"), CASES, ids=[case[0] for case in CASES])
def test_an_overlay_is_merged_as_kubectl_patch_would(name: str, base: Any, overlay: Any, expected: Any) -> None:
    before = copy.deepcopy((base, overlay))
    assert merge(base, overlay) == expected
    assert (base, overlay) == before, "neither is changed"


TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(TREES)
def test_an_empty_overlay_changes_nothing(tree: Any) -> None:
    assert merge({"x": tree}, {}) == {"x": tree}


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.integers()), st.dictionaries(st.sampled_from(["a", "b"]), TREES))
def test_the_overlay_s_own_values_win(base: dict[str, int], overlay: dict[str, Any]) -> None:
    assert {key: merge(base, overlay)[key] for key in overlay} == overlay
