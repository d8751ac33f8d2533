"""Finding samples: every filter, old files and new ones, sorting over files, and no more read than was asked for."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gvm_cli.recorded_samples import count, find
from gvm_cli.sample_query import ALL_COLUMNS, Query, choose, sample_files

JOB = (
    "apiVersion: gvm.rlhflow.dev/v1alpha1\nkind: GVMTrainingJob\nmetadata: {name: sums}\n"
    "spec: {model: {path: m}, dataset: {path: d}, storage: {saveSamples: SAVES}}\n"
)
NEW = ("iteration", "num_tokens", "accept_rate", "grad_norm", "sample_size")
RATES, NORMS, SIZES = {"a": 0.1, "b": 0.5, "c": 0.9}, {"a": 9.0, "b": None, "c": 1.0}, {"a": 3, "b": 2, "c": 1}


def rows_of(iteration: int) -> list[dict[str, Any]]:
    """Prompt a: three samples, one of them unjudged; b: an accepted and a rejected one; c: one."""
    outcomes = {"a": ("rejected", "rejected", "timeout"), "b": ("accepted", "rejected"), "c": ("accepted",)}
    return [
        {
            "iteration": iteration,
            "prompt_id": prompt,
            "prompt": f"What is {prompt}?",
            "answer": "Forty-Two",
            "stage": "pilot" if index == 0 else "main",
            "index": index,
            "completion": f"{prompt}{index} of {iteration}",
            "token_ids": [7] * (10 * iteration + len(outcomes[prompt]) + index),
            "num_tokens": 10 * iteration + len(outcomes[prompt]) + index,
            "reward": {"accepted": 1.0, "rejected": 0.0}.get(outcome),
            "outcome": outcome,
            "finish_reason": "stop",
            "policy_version": iteration - 1,
            "accept_rate": RATES[prompt],
            "grad_norm": NORMS[prompt] if NORMS[prompt] is not None else math.nan,
            "sample_size": SIZES[prompt],
        }
        for prompt in outcomes
        for index, outcome in enumerate(outcomes[prompt])
    ]


def write_samples(run_dir: Path, iteration: int, *, is_old: bool) -> None:
    rows = [{k: v for k, v in row.items() if not (is_old and k in NEW)} for row in rows_of(iteration)]
    schema = pa.Table.from_pylist(rows).schema
    floats = [(name, pa.float32()) for name in ("accept_rate", "grad_norm", "reward") if name in schema.names]
    for name, kind in floats:
        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), run_dir / "samples" / f"{iteration:06}.parquet")
    plan = {
        "prompt_ids": list(RATES),
        "pilot_sizes": [1, 1, 1],
        "sample_sizes": [size - 1 for size in SIZES.values()],
        "accept_rates": list(RATES.values()),
        "grad_norms": list(NORMS.values()),
    }
    (run_dir / "plans" / f"{iteration:06}.json").write_text(json.dumps(plan))


def new_run(run_dir: Path, *, old: tuple[int, ...] = (), new: tuple[int, ...] = (), saves: bool = True) -> Path:
    for folder in ("samples", "plans"):
        (run_dir / folder).mkdir(parents=True)
    (run_dir / "job.yaml").write_text(JOB.replace("SAVES", str(saves).lower()))
    for iteration in (*old, *new):
        write_samples(run_dir, iteration, is_old=iteration in old)
    return run_dir


@pytest.fixture(params=["old", "new"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three iterations with the columns of today, or of earlier versions."""
    return new_run(tmp_path / "run", **{request.param: (1, 2, 3)})


def found(run_dir: Path, iteration: str | None = None, **query: Any) -> list[str]:
    return [row["completion"] for row in find(run_dir, choose(sample_files(run_dir), iteration), Query(**query))]


def test_the_columns_of_an_old_file_are_made_up_from_the_plan(run: Path) -> None:
    rows = list(find(run, choose(sample_files(run), "2"), Query(), ALL_COLUMNS))
    assert len(rows) == 6
    for row, expected in zip(rows, rows_of(2), strict=True):
        assert set(row) == set(ALL_COLUMNS)
        assert row["accept_rate"] == pytest.approx(expected["accept_rate"])
        assert row["grad_norm"] == (None if math.isnan(expected["grad_norm"]) else expected["grad_norm"])
        exact = set(ALL_COLUMNS) - {"accept_rate", "grad_norm"}
        assert {name: row[name] for name in exact} == {name: expected[name] for name in exact}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["a0", "a1", "a2", "b0", "b1", "c0"]),
        ({"prompt_id": "b"}, ["b0", "b1"]),
        ({"prompt_id": "nobody"}, []),
        ({"outcome": "rejected"}, ["a0", "a1", "b1"]),
        ({"outcome": "timeout"}, ["a2"]),
        ({"stage": "main"}, ["a1", "a2", "b1"]),
        ({"min_accept_rate": 0.5}, ["b0", "b1", "c0"]),
        ({"max_accept_rate": 0.1}, ["a0", "a1", "a2"]),
        ({"min_accept_rate": 0.2, "max_accept_rate": 0.6, "outcome": "accepted"}, ["b0"]),
        ({"search": "WHAT IS C"}, ["c0"]),
        ({"search": "forty-two", "stage": "pilot"}, ["a0", "b0", "c0"]),
        ({"search": "a1 OF 3"}, ["a1"]),
        ({"search": ".*"}, []),
        ({"limit": 4}, ["a0", "a1", "a2", "b0"]),
        ({"sort": "tokens", "limit": 2}, ["a2", "a1"]),
        ({"sort": "tokens", "is_ascending": True, "limit": 1}, ["c0"]),
        ({"sort": "p", "limit": 3}, ["c0", "b0", "b1"]),
        ({"sort": "n_i", "limit": 3}, ["a0", "a1", "a2"]),
        ({"sort": "reward", "is_ascending": True, "limit": 3}, ["a0", "a1", "b1"]),
        ({"sort": "n_i", "outcome": "accepted"}, ["b0", "c0"]),
    ],
)
def test_a_query_finds_the_samples_that_match_it(run: Path, query: dict[str, Any], expected: list[str]) -> None:
    assert found(run, **query) == [f"{name} of 3" for name in expected]
    matching = count(run, choose(sample_files(run), None), Query(**query))
    assert matching == len(expected) if "limit" not in query else matching == 6


def test_what_has_no_gradient_norm_comes_last_in_both_directions(tmp_path: Path) -> None:
    old = new_run(tmp_path / "run", old=(1,))
    for ascending in (False, True):
        assert [each[0] for each in found(old, sort="G", is_ascending=ascending)][-2:] == ["b", "b"]


def test_iterations_are_one_a_range_or_all(run: Path) -> None:
    assert [each[-1] for each in found(run, "1", prompt_id="c")] == ["1"]
    assert [each[-1] for each in found(run, "2-9", prompt_id="c")] == ["2", "3"]
    assert found(run, "all", prompt_id="c") == ["c0 of 1", "c0 of 2", "c0 of 3"]
    assert found(run, "all", limit=8)[-2:] == ["a0 of 2", "a1 of 2"]


def test_sorting_is_over_all_iterations_old_files_and_new_ones(tmp_path: Path) -> None:
    mixed = new_run(tmp_path / "run", old=(1, 3), new=(2,))
    assert found(mixed, "all", sort="tokens", limit=4) == ["a2 of 3", "a1 of 3", "a0 of 3", "b1 of 3"]
    assert found(mixed, "all", sort="p", limit=3) == ["c0 of 1", "c0 of 3", "c0 of 2"]  # .9 of float32 is below .9
    assert found(mixed, "all", sort="tokens", search="nowhere") == []


def test_a_file_that_was_not_asked_for_may_be_broken(run: Path) -> None:
    (run / "samples" / "000001.parquet").write_bytes(b"PAR1 torn")
    (run / "samples" / "000009.writing").write_bytes(b"")
    assert len(found(run)) == 6
    with pytest.raises(ValueError, match=r"samples/000001\.parquet: cannot be read as samples .*another --iteration"):
        found(run, "1")


def test_old_samples_without_their_plan_have_no_p(tmp_path: Path) -> None:
    old = new_run(tmp_path / "run", old=(1,))
    (old / "plans" / "000001.json").unlink()
    (row, *_) = find(old, sample_files(old), Query())
    assert (row["accept_rate"], row["grad_norm"], row["sample_size"], row["num_tokens"]) == (None, None, None, 13)
    assert found(old, max_accept_rate=1.0) == []


def test_only_the_columns_asked_for_are_read(run: Path) -> None:
    (row, *_) = find(run, choose(sample_files(run), None), Query(search="forty"), ("completion", "sample_size"))
    assert row == {"completion": "a0 of 3", "sample_size": 3}


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("9", r"--iteration 9: there are samples of iterations 1-3; choose from these, or all"),
        ("7-9", r"--iteration 7-9: there are samples of iterations 1-3"),
        ("x", r"--iteration 'x': is no iteration; write one such as 7, a range such as 3-5, or all"),
        ("-3", r"is no iteration"),
    ],
)
def test_an_unknown_iteration_is_refused(run: Path, asked: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        choose(sample_files(run), asked)


def test_a_directory_without_samples_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no run directory \(it has no job\.yaml\)"):
        sample_files(tmp_path)
    with pytest.raises(ValueError, match=r"has no samples, as spec\.storage\.saveSamples is false"):
        sample_files(new_run(tmp_path / "off", saves=False))
    with pytest.raises(ValueError, match=r"has no samples yet \(samples/\); wait for the first iteration"):
        sample_files(new_run(tmp_path / "early"))
    holes = sample_files(new_run(tmp_path / "holes", new=(1, 2, 5)))
    with pytest.raises(ValueError, match=r"there are samples of iterations 1-2, 5;"):
        choose(holes, "4")
