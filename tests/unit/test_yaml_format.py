"""YAML is read and written as Kubernetes does: what is written is read back the same, by others too."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gvm_api import yaml_format

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_written_is_read_back_the_same(document: dict[str, Any]) -> None:
    assert yaml_format.load_all(yaml_format.dump(document)) == [document]
    assert yaml.safe_load(yaml_format.dump(document)) == document, "and by plain PyYAML"


@pytest.mark.parametrize("text", ["1e5", "12345e6", "1E-3", "+.5e1", "2024-01-01", "on", "0x1f", "1_000", "null", ""])
def test_a_text_that_looks_like_another_type_is_quoted(text: str) -> None:
    assert yaml_format.dump([text]).strip() == f"- '{text}'"


def test_a_text_of_several_lines_is_a_block() -> None:
    assert yaml_format.dump({"job.yaml": "a: 1\nb: 2\n"}) == "job.yaml: |\n  a: 1\n  b: 2\n"


def test_objects_that_stand_twice_are_written_twice() -> None:
    shared = {"a": 1}
    assert yaml_format.dump({"x": shared, "y": shared}) == "x:\n  a: 1\ny:\n  a: 1\n"


def test_several_documents_are_separated() -> None:
    assert yaml_format.dump({"a": 1}, {"b": 2}) == "a: 1\n---\nb: 2\n"
    assert yaml_format.load_all("a: 1\n---\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]


def test_merged_keys_may_be_overridden_but_not_repeated() -> None:
    nested = "x: &a {p: &b {q: 1, <<: {q: 2}}}\ny: {<<: *a}\nz: {<<: *b, q: 7}\n"
    assert yaml_format.load_all(nested) == [{"x": {"p": {"q": 1}}, "y": {"p": {"q": 1}}, "z": {"q": 7}}]
    with pytest.raises(ValueError, match="line 2: key 'q' stands twice; remove one"):
        yaml_format.load_all("z: {q: 1,\n q: 2}\n")
