"""Reading job files: everything that is no job file is refused in one line that names the file, the line, the fix."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvm_api.load import InvalidJobError, load_job, one_line, parse_job

JOB = """\
apiVersion: gvm.rlhflow.dev/v1alpha1
kind: GVMTrainingJob
metadata: {name: arithmetic}
spec:
  model: {path: policy}
  dataset: {path: train.jsonl}
"""
HEAD = "\n".join(JOB.splitlines()[:3]) + "\n"
WRITE_ONE = "write one object of kind GVMTrainingJob, apiVersion gvm.rlhflow.dev/v1alpha1"

BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", f"holds 0 documents; {WRITE_ONE}"),
    ("only comments", b"# nothing\n---\n---\n", f"holds 0 documents; {WRITE_ONE}"),
    ("two documents", JOB.encode() + b"---\n" + JOB.encode(), f"holds 2 documents; {WRITE_ONE}"),
    ("a list", b"- a\n- b\n", f"holds a list; {WRITE_ONE}"),
    ("a text", b"hello\n", f"holds a str; {WRITE_ONE}"),
    ("binary", bytes(range(256)), "cannot be read ('utf-8' codec"),
    ("utf-16", JOB.encode("utf-16"), "cannot be read ('utf-8' codec"),
    ("a null character", b"a: \x00", "is not YAML (unacceptable character #x0000"),
    ("a tab", b"metadata:\n\tname: x\n", "line 2: found character '\\t' that cannot start any token"),
    ("an open bracket", b"a: [1,\n", "line 2: expected the node content"),
    ("a key twice", HEAD.encode() + b"spec: {}\nspec: {}\n", "line 5: key 'spec' stands twice; remove one"),
    ("a nested key twice", b"spec:\n  model:\n    path: a\n    path: b\n", "line 4: key 'path' stands twice"),
    ("a key that is a number", b"spec:\n  1: x\n", "line 2: key '1' is no string; write it in quotes"),
    ("a key that YAML takes for true", b"spec:\n  on: x\n", "line 2: key 'on' is no string; write it in quotes"),
    ("a key that is a list", b"? [a]\n: x\n", "line 1: key 'sequence' is no string"),
    ("an object of Python's", b"a: !!python/object:os.system x\n", "line 1: could not determine a constructor"),
    ("a set", b"a: !!set {b}\n", "line 1: could not determine a constructor"),
    ("a tag on what does not fit", b"a: !!int x\n", "is not YAML (invalid literal for int()"),
    ("an absurd number", b"a: " + b"9" * 5000, "is not YAML (Exceeds the limit"),
    ("nested too deeply", b"[" * 5_000, "is nested too deeply; write a job file"),
    ("enormous", b"a: " + b"x" * 2**20, "is larger than 1048576 bytes; give the path of a job file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=[name for name, _, _ in BAD_FILES])
def test_what_is_no_job_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidJobError) as raised:
        load_job(path)
    (problem,) = raised.value.problems
    assert problem.startswith(f"{path}: {message}"), problem
    assert "\n" not in problem


def test_a_missing_file_and_a_folder_are_refused_by_path(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(
            InvalidJobError, match=f"^{path}: cannot be read .*{reason}.*; give the path of a job file$"
        ):
            load_job(path)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(InvalidJobError, match="is larger than 1048576 bytes"):
        load_job(Path("/dev/zero"))


def test_wrong_kind_and_api_version_are_named_with_the_right_ones() -> None:
    text = JOB.replace("v1alpha1", "v1").replace("kind: GVMTrainingJob", "kind: Job")
    with pytest.raises(InvalidJobError) as raised:
        parse_job(text, source="job.yaml")
    assert raised.value.problems == [
        "apiVersion: 'gvm.rlhflow.dev/v1' is refused; input should be 'gvm.rlhflow.dev/v1alpha1'",
        "kind: 'Job' is refused; input should be 'GVMTrainingJob'",
    ]


def test_json_a_byte_order_mark_anchors_and_merge_keys_are_read() -> None:
    merged = HEAD + (
        "spec:\n  model: {path: policy}\n  dataset: &rows {path: a.jsonl, limit: 5}\n"
        "  evaluation:\n    datasets:\n    - {<<: *rows, name: held-out, limit: 7}\n"
    )
    (dataset,) = parse_job(merged, source="x").spec.evaluation.datasets
    assert (dataset.path, dataset.limit, dataset.name) == ("a.jsonl", 7, "held-out")
    assert parse_job("\ufeff" + JOB, source="x") == parse_job(JOB, source="x")
    as_json = (
        '{"apiVersion": "gvm.rlhflow.dev/v1alpha1", "kind": "GVMTrainingJob", "metadata": {"name": "arithmetic"},'
        ' "spec": {"model": {"path": "policy"}, "dataset": {"path": "train.jsonl"}}}'
    )
    assert parse_job(as_json, source="x") == parse_job(JOB, source="x")


def test_an_object_within_itself_is_refused() -> None:
    with pytest.raises(InvalidJobError, match="cannot be written as JSON"):
        parse_job(HEAD + "spec: &self\n  model: *self\n", source="x")


def test_values_are_read_as_kubernetes_reads_them() -> None:
    text = JOB + "  learner: {learningRate: 1e-5}\n  algorithm: {clipHigh: 2E-1}\n"
    text = text.replace("{path: policy}", "{path: policy, revision: 2024-01-31}")
    spec = parse_job(text, source="x").spec
    assert spec.learner.learning_rate == 1e-5
    assert spec.algorithm.clip_high == 0.2
    assert spec.model.revision == "2024-01-31"


def test_a_commit_that_looks_like_a_number_has_to_be_quoted() -> None:
    with pytest.raises(InvalidJobError, match=r"^spec\.model\.revision: 12345000000\.0 is refused; .*valid string"):
        parse_job(JOB.replace("{path: policy}", "{path: policy, revision: 12345e6}"), source="x")


@given(st.text(max_size=3000), st.integers(10, 500))
def test_one_line_never_exceeds_its_limit_and_keeps_short_texts(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert "\n" not in line
    assert line == " ".join(text.split()) or "…" in line


@given(st.text(max_size=200))
def test_no_text_crashes_the_loader(text: str) -> None:
    with pytest.raises(InvalidJobError):
        parse_job(text, source="x")
