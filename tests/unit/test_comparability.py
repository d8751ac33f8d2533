"""Which runs may be compared: one line a difference, naming both runs, both values and the fix."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gvm_api.status import JobStatus
from gvm_cli.comparability import check_comparable
from gvm_cli.recorded_differences import steps_remark, token_excess, token_means
from gvm_cli.run_groups import Group, read_groups


def write_run(
    run_dir: Path,
    *,
    policy: str = "gvm",
    seed: int = 0,
    tokens: int = 1000,
    num_iterations: int = 4,
    line: dict[str, Any] | None = None,
    **changes: dict[str, Any],
) -> Path:
    """A run that spent so many tokens an iteration; `line` changes its every line, `changes` its spec."""
    spec: dict[str, Any] = {
        "model": {"path": "base"},
        "dataset": {"path": "train.jsonl"},
        "algorithm": {"seed": seed, "maxIterations": num_iterations},
        "allocation": {"policy": policy},
    }
    for part, values in changes.items():
        spec[part] = {**spec.get(part, {}), **values}
    job = {
        "apiVersion": "gvm.rlhflow.dev/v1alpha1",
        "kind": "GVMTrainingJob",
        "metadata": {"name": "sums"},
        "spec": spec,
    }
    lines: list[dict[str, Any]] = [{"iteration": 0, "step": 0, "eval": {"held-out": {"accuracy": 0.1}}}]
    lines += [
        {
            "iteration": i,
            "step": 4 * i,
            "learning_rate": 1e-6,
            "tokens_total": tokens * i,
            "eval": {"held-out": {"accuracy": 0.1 * i}},
            **(line or {}),
        }
        for i in range(1, num_iterations + 1)
    ]
    run_dir.mkdir(parents=True)
    (run_dir / "job.yaml").write_text(yaml.safe_dump(job))
    (run_dir / "status.json").write_text(JobStatus(phase="Succeeded").model_dump_json())
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return run_dir


def problems(*given: Path | str, **options: float) -> list[str]:
    try:
        check_comparable(read_groups(list(map(str, given))), **options)
    except ValueError as error:
        return str(error).splitlines()
    return []


def test_runs_that_differ_in_allocation_seed_length_and_machines_compare(tmp_path: Path) -> None:
    assert not problems(
        write_run(tmp_path / "u", policy="uniform", rollout={"replicas": 4}, reward={"workers": 1}),
        write_run(tmp_path / "g", seed=7, num_iterations=6, learner={"microBatchTokens": 8192}, reward={"workers": 16}),
        write_run(tmp_path / "g2", seed=8, learner={"microBatchTokens": 8192}),
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"algorithm": {"updatesPerIteration": 1}}, "spec.algorithm.updatesPerIteration: 4 in {a} but 1 in {b}; "),
        ({"algorithm": {"klCoefficient": 0.1}}, "spec.algorithm.klCoefficient: 0.0 in {a} but 0.1 in {b}; the KL "),
        ({"algorithm": {"name": "grpo"}}, "spec.algorithm.name: 'raftpp' in {a} but 'grpo' in {b}; "),
        ({"learner": {"learningRate": 1e-4}}, "spec.learner.learningRate: 1e-06 in {a} but 0.0001 in {b}; a larger "),
        ({"learner": {"warmupSteps": 9}}, "spec.learner.warmupSteps: 0 in {a} but 9 in {b}; "),
        ({"model": {"path": "other"}}, "spec.model.path: 'base' in {a} but 'other' in {b}; the model is "),
        ({"model": {"revision": "v2"}}, "spec.model.revision: None in {a} but 'v2' in {b}; "),
        ({"dataset": {"path": "b.jsonl"}}, "spec.dataset.path: 'train.jsonl' in {a} but 'b.jsonl' in {b}; "),
        ({"reward": {"acceptThreshold": 0.5}}, "spec.reward.acceptThreshold: 1.0 in {a} but 0.5 in {b}; "),
        (
            {"learner": {"deepspeed": {"zero_optimization": {"stage": 2}}}},
            "spec.learner.deepspeed.zero_optimization.stage: None in {a} but 2 in {b}; ",
        ),
        (
            {"rollout": {"engineArgs": {"quantization": "fp8"}}},
            "spec.rollout.engineArgs.quantization: None in {a} but 'fp8' in {b}; ",
        ),
        ({"rollout": {"maxResponseTokens": 9}}, "spec.rollout.maxResponseTokens: 3072 in {a} but 9 in {b}; "),
    ],
)
def test_jobs_that_differ_in_more_are_refused(tmp_path: Path, changes: dict[str, dict[str, Any]], line: str) -> None:
    a, b = write_run(tmp_path / "a", policy="uniform"), write_run(tmp_path / "b", **changes)
    (problem,) = problems(a, b)
    assert problem.startswith(line.format(a=a, b=b))
    assert "run one again with the other's" in problem


WIDE = {"algorithm": {"promptsPerIteration": 1024}, "allocation": {"samplesPerPrompt": 0.5}}


def test_a_budget_may_be_spread_over_other_numbers_of_prompts(tmp_path: Path) -> None:
    narrow = {"algorithm": {"promptsPerIteration": 512}, "allocation": {"samplesPerPrompt": 1}}
    uniform = write_run(tmp_path / "u", policy="uniform", **narrow)
    assert not problems(uniform, write_run(tmp_path / "g", **WIDE))
    thirds = {"algorithm": {"promptsPerIteration": 171}, "allocation": {"samplesPerPrompt": 3}}
    assert not problems(uniform, write_run(tmp_path / "t", **thirds)), "513 samples are as near as whole prompts come"
    replay = {**WIDE, "algorithm": {"promptsPerIteration": 1024, "replay": {"responsesPerIteration": 0}}}
    assert not problems(uniform, write_run(tmp_path / "r", **replay))


def test_unequal_budgets_of_an_iteration_are_refused(tmp_path: Path) -> None:
    u = write_run(
        tmp_path / "u",
        policy="uniform",
        algorithm={"promptsPerIteration": 512},
        allocation={"samplesPerPrompt": 2},
    )
    g = write_run(tmp_path / "g", **WIDE)
    assert problems(u, g) == [
        f"spec.allocation: 1,024 samples an iteration in {u} (promptsPerIteration 512 × samplesPerPrompt 2) but 512 in "
        f"{g} (promptsPerIteration 1024 × samplesPerPrompt 0.5); more samples are no better allocation: run one again "
        "with a promptsPerIteration that makes them equal"
    ]


def test_a_budget_of_tokens_is_held_against_another_and_against_samples_by_what_was_recorded(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", allocation={"tokensPerPrompt": 40})
    b = write_run(tmp_path / "b", allocation={"tokensPerPrompt": 20})
    (problem,) = [text for text in problems(a, f"b={b}") if text.startswith("spec.allocation:")]
    assert "40,960 tokens an iteration" in problem
    u = write_run(tmp_path / "u", policy="uniform")
    assert not problems(u, a)
    (problem,) = problems(u, write_run(tmp_path / "c", tokens=2000, allocation={"tokensPerPrompt": 20}))
    assert problem.startswith("generated tokens at iteration 4")


def test_runs_that_are_averaged_consider_as_many_prompts(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", algorithm={"promptsPerIteration": 512}, allocation={"samplesPerPrompt": 1})
    b = write_run(tmp_path / "b", seed=1, **WIDE)
    found = problems(a, b)
    assert [text.split(":")[0] for text in found] == [
        "spec.algorithm.promptsPerIteration",
        "spec.allocation.samplesPerPrompt",
    ]
    assert not problems(a, f"wide={b}")


def test_every_difference_has_a_line(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", policy="uniform")
    b = write_run(tmp_path / "b", learner={"learningRate": 1e-4}, algorithm={"klCoefficient": 0.1}, tokens=9000)
    assert [text.split(":")[0] for text in problems(a, b)] == [
        "spec.algorithm.klCoefficient",
        "spec.learner.learningRate",
    ]


def test_a_learning_rate_that_was_recorded_otherwise_than_set_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", policy="uniform")
    b = write_run(tmp_path / "b", line={"learning_rate": 2e-6})
    (problem,) = problems(a, b)
    assert problem.startswith(f"learning rate at step 4: 1e-06 in {a} but 2e-06 in {b}; see learner.deepspeed")
    for nothing in (0.0, None):  # no prompt gave a gradient; not recorded
        assert not problems(a, write_run(tmp_path / f"c-{nothing}", line={"learning_rate": nothing}))


def test_runs_with_more_optimiser_steps_are_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", policy="uniform", num_iterations=5)
    b = write_run(tmp_path / "b", line={"step": 32})
    (problem,) = problems(a, b)
    assert problem.startswith(f"optimiser steps at iteration 4: 32 in {b}, whose job asks for 16; more updates are no")


def rewrite(run_dir: Path, key: str, values: dict[int, Any]) -> Path:
    """Give some iterations' lines another value."""
    file = run_dir / "metrics.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    for line in lines:
        line[key] = values.get(line["iteration"], line.get(key))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def test_updates_without_a_gradient_may_be_skipped_and_are_named(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", policy="uniform", num_iterations=10)
    b = rewrite(write_run(tmp_path / "b", num_iterations=10), "step", {9: 35, 10: 38})
    assert not problems(a, b)
    assert steps_remark(read_groups([str(a), str(b)])) == (
        f"Updates that had no gradient and were skipped, up to iteration 10: {b} 2 of 40."
    )
    assert steps_remark(read_groups([str(a), str(a)])) == ""
    (problem,) = problems(a, rewrite(b, "step", {10: 37}))
    assert problem.startswith(f"optimiser steps at iteration 10: 37 in {b} but 40 in {a}, more than 5% apart; ")


def test_learning_rates_are_held_against_each_other_at_equal_steps(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", policy="uniform", num_iterations=30)
    b = write_run(tmp_path / "b", num_iterations=30)
    rewrite(a, "learning_rate", {i: 1e-7 * 4 * i for i in range(1, 31)})
    # Its first update was skipped: a step less at every iteration, on the same schedule of 1e-7 a step.
    rewrite(b, "step", {i: 4 * i - 1 for i in range(1, 31)})
    rewrite(b, "learning_rate", {i: 1e-7 * (4 * i - 1) for i in range(1, 31)})
    assert not problems(a, b)
    rewrite(b, "learning_rate", {i: 2e-7 * (4 * i - 1) for i in range(1, 31)})
    (problem,) = problems(a, b)
    assert problem.startswith(f"learning rate at step 4: 4e-07 in {a} but 6e-07 to 1.4e-06 in {b}; see")


def test_runs_that_were_evaluated_at_other_iterations_are_refused(tmp_path: Path) -> None:
    a = rewrite(write_run(tmp_path / "a", policy="uniform"), "eval", {2: None})
    b = write_run(tmp_path / "b", num_iterations=6)
    (problem,) = problems(a, b)
    assert problem.startswith(f"evaluation at iteration 2: in {b} but not in {a}; more evaluations find a higher best")
    rewrite(b, "eval", {2: None, 4: None})
    assert not problems(a, b), "the end of the shorter run is evaluated whether it is due or not"


def test_groups_that_spent_more_tokens_are_refused_unless_that_is_tolerated(tmp_path: Path) -> None:
    a = [write_run(tmp_path / f"u-{seed}", policy="uniform", seed=seed, tokens=900 + 200 * seed) for seed in (0, 1)]
    b = [write_run(tmp_path / f"g-{seed}", seed=seed, tokens=1180 + 20 * seed) for seed in (0, 1)]
    (problem,) = problems(*a, *b)
    assert problem.startswith(
        f"generated tokens at iteration 4: 4,000 of uniform ({a[0]}, {a[1]}) but 4,760 of gvm "
        f"({b[0]}, {b[1]}), 19% more than the fewest where --token-tolerance allows 10%"
    )
    assert problem.endswith("--token-tolerance 0.19")
    assert not problems(*a, *b, token_tolerance=0.19)
    assert problems(*b, *a) == [problem], "in whatever order"
    groups = read_groups(list(map(str, (*a, *b))))
    assert token_means(groups) == [4000, 4760]
    assert token_excess(groups) == pytest.approx(0.19)


def test_the_most_tokens_are_held_against_the_fewest_in_any_order(tmp_path: Path) -> None:
    few, middle, many = (
        f"{label}={write_run(tmp_path / label, tokens=tokens)}"
        for label, tokens in (("few", 1000), ("middle", 1080), ("many", 1160))
    )
    (problem,) = problems(middle, many, few)
    assert "4,000 of few" in problem
    assert "4,640 of many" in problem
    assert problems(few, middle, many) == [problem]


def test_tokens_are_held_against_each_other_where_the_shortest_run_ends(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", policy="uniform", num_iterations=9)
    assert not problems(a, write_run(tmp_path / "b", num_iterations=3, tokens=1050))


def test_runs_of_one_group_have_one_allocation_and_seeds_of_their_own(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", seed=1, allocation={"exploration": 0.2})
    (problem,) = problems(a, b)
    assert problem == (
        f"spec.allocation.exploration: 0.1 in {a} but 0.2 in {b}; runs of gvm are averaged, so tell these apart: "
        f"LABEL={b}"
    )
    assert not problems(a, f"two={b}")
    (problem,) = problems(a, write_run(tmp_path / "c"))
    assert problem.endswith("are both of gvm and have seed 0; give each run its own seed")
    assert "give at least two" in problems(a)[0]


def labels(groups: tuple[Group, ...]) -> dict[str, list[str]]:
    return {group.label: [run.directory.name for run in group.runs] for group in groups}


def test_runs_belong_to_their_policy_or_to_the_label_before_them(tmp_path: Path) -> None:
    for name, policy in (("a-0", "gvm"), ("a-1", "gvm"), ("b-0", "uniform"), ("c=1", "uniform")):
        write_run(tmp_path / name, policy=policy)
    (tmp_path / "a-0.yaml").write_text("the job file beside a run")
    given = [str(tmp_path / name) for name in ("a-0", "a-0.yaml", "b-0", "c=1")]
    assert labels(read_groups(given)) == {"gvm": ["a-0"], "uniform": ["b-0", "c=1"]}
    assert labels(read_groups([f"new={tmp_path}/a-*", f"old={tmp_path}/b-0"])) == {
        "new": ["a-0", "a-1"],
        "old": ["b-0"],
    }


def test_what_is_no_run_or_no_label_is_refused(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "a")
    for given, problem in (
        ("nowhere", r"nowhere: is no run directory"),
        (f"new={tmp_path}/x-*", r"there is no directory .*x-\*; give that of a run"),
        (f"_a={run_dir}", r"'_a' is no label; write letters, digits"),
        (f"<b>={run_dir}", r"'<b>' is no label"),
    ):
        with pytest.raises(ValueError, match=problem):
            read_groups([given])
