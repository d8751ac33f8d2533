"""The report and the comparison, on run directories written by hand: whole, half-way, torn, and not comparable."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gvm_api.status import JobStatus
from gvm_cli.compare import render as render_comparison
from gvm_cli.comparison import check_comparable, comparison_table, curves
from gvm_cli.recorded_run import read_run
from gvm_cli.report import write_report
from gvm_cli.report_page import render
from gvm_cli.report_summary import accuracy_table, cost_table, duration, headline, stage_table

PROMPTS, PER_PROMPT = 16, 8


def job(policy: str = "gvm", seed: int = 0, **changes: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "model": {"path": "a<b>"},
        "dataset": {"path": "train.jsonl"},
        "algorithm": {"maxIterations": 6, "promptsPerIteration": PROMPTS, "seed": seed},
        "allocation": {"policy": policy, "samplesPerPrompt": PER_PROMPT},
        "rollout": {"env": [{"name": "HF_TOKEN", "value": "hf_secret"}]},
        "evaluation": {"everyIterations": 2, "datasets": [{"name": "held-out", "path": "eval.jsonl"}]},
    }
    for part, values in changes.items():
        spec[part] = {**spec.get(part, {}), **values}
    return {
        "apiVersion": "gvm.rlhflow.dev/v1alpha1",
        "kind": "GVMTrainingJob",
        "metadata": {"name": "sums"},
        "spec": spec,
    }


def evaluation(accuracy: float) -> dict[str, Any]:
    return {"held-out": {"accuracy": accuracy, "num_prompts": 100, "samples": 1}}


def line(iteration: int, accuracy: float | None = None, **changes: Any) -> dict[str, Any]:
    """128 samples an iteration, 48 of them the pilot's; predicted variance 0.6 of uniform's, realised 0.8."""
    seconds = {"pilot": 1.0, "grad_norms": 0.5, "plan": 0.1, "main": 2.0, "train": 3.0, "sync": 0.4, "total": 8.0}
    return {
        "iteration": iteration,
        "elapsed_seconds": 8.0 * iteration,
        "accept_rate": 0.1 * iteration,
        "zero_gradient_fraction": 0.5 - 0.05 * iteration,
        "num_samples_pilot": 48,
        "num_samples_main": 80,
        "num_timeouts": 1,
        "num_errors": 0,
        "tokens_generated_pilot": 300,
        "tokens_generated_main": 700,
        "tokens_prompt": 160,
        "samples_total": 128 * iteration,
        "tokens_total": 1000 * iteration,
        "predicted_variance": 0.6,
        "predicted_variance_uniform": 1.0,
        "realised_variance": 1.6 if iteration > 1 else None,
        "realised_variance_uniform": 2.0 if iteration > 1 else None,
        "seconds": seconds,
        "eval": None if accuracy is None else evaluation(accuracy),
        **changes,
    }


def before_training(accuracy: float) -> dict[str, Any]:
    nothing = dict.fromkeys(line(1))
    return {**nothing, "iteration": 0, "elapsed_seconds": 1.5, "seconds": {}, "eval": evaluation(accuracy)}


def plan(iteration: int) -> dict[str, Any]:
    return {
        "prompt_ids": [str(i) for i in range(PROMPTS)],
        "pilot_sizes": [3] * PROMPTS,
        "sample_sizes": [1, 9] * (PROMPTS // 2),
        "accept_rates": [0.9, 0.1] * (PROMPTS // 2),
        "grad_norms": [1.0, None] * (PROMPTS // 2),
        "predicted_variance": 0.6,
        "predicted_variance_uniform": 1.0,
    }


def write_run(
    run_dir: Path,
    lines: list[dict[str, Any]],
    *,
    manifest: dict[str, Any] | None = None,
    phase: str = "Succeeded",
    torn: str = "",
) -> Path:
    (run_dir / "plans").mkdir(parents=True)
    (run_dir / "job.yaml").write_text(yaml.safe_dump(manifest or job()))
    (run_dir / "status.json").write_text(JobStatus(phase=phase, message="out of disk").model_dump_json())
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines) + torn)
    for iteration in (each["iteration"] for each in lines if each["iteration"]):
        (run_dir / "plans" / f"{iteration:06}.json").write_text(json.dumps(plan(iteration)))
    return run_dir


WHOLE = [before_training(0.1), line(1), line(2, 0.3), line(3), line(4, 0.5), line(5), line(6, 0.4)]


def test_the_report_is_one_file_that_needs_no_other(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "run", WHOLE))
    html = path.read_text()
    assert path == tmp_path / "run" / "report.html"
    assert html.count("<svg") == html.count("</svg>") == 7
    assert not re.search(r"(src|href)=\"[^#]|url\((?!#)|@import|<script|<link|<metadata", html)
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert (tmp_path / "run" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert len(html) < 300_000


def test_every_colour_of_a_plot_follows_light_and_dark_mode(tmp_path: Path) -> None:
    html = render(read_run(write_run(tmp_path / "run", WHOLE)))
    svgs = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", svgs)) == set()
    assert {f"{name}:" for name in re.findall(r"var\((--c\w+)\)", svgs)} <= set(re.findall(r"--c\w+:", html))


def test_the_summary_counts_the_pilot(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", WHOLE))
    assert headline(run) == "Accuracy on held-out went from 10.0% to 40.0% in 6 iterations, 768 samples and 48.0 s."
    assert accuracy_table(run)[1] == (
        "held-out",
        "10.0% ± 3.0",
        "40.0% ± 4.9",
        "+30.0 points",
        "50.0%",
        "4",
        "100",
        "1",
    )
    costs = {name: (value, remark) for name, value, remark in cost_table(run)}
    assert costs["samples"] == ("768", "pilot 288 (38%)")
    assert costs["tokens generated"] == ("6,000", "pilot 1,800 (30%)")
    assert costs["wall time"] == ("48.0 s", "")
    assert costs["accept rate"][0] == "10.0% to 60.0%"
    assert costs["variance, predicted"] == ("0.60 of uniform's", "sums over 6 iterations")
    assert costs["variance, realised"] == ("0.80 of uniform's", "sums over 5 iterations")
    assert costs["samples not judged"] == ("6", "verifier timeouts 6, errors 0")


def test_stage_shares_are_of_the_iterations_time_and_name_the_rest(tmp_path: Path) -> None:
    rows = stage_table(read_run(write_run(tmp_path / "run", WHOLE)))
    assert rows[0] == ("stage", "time", "share")
    assert ("train", "18.0 s", "37.5%") in rows
    assert ("other", "6.0 s", "12.5%") in rows


def test_plan_sizes_are_those_of_both_stages(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", WHOLE))
    assert run.plans[0].sample_sizes == (4, 12) * (PROMPTS // 2)
    assert sum(run.plans[0].sample_sizes) == PROMPTS * PER_PROMPT


def test_the_job_is_shown_without_its_secrets_and_all_text_is_escaped(tmp_path: Path) -> None:
    html = render(read_run(write_run(tmp_path / "run", WHOLE)))
    assert "hf_secret" not in html
    assert "name: HF_TOKEN" in html
    assert "samplesPerPrompt: 8" in html
    assert "a&lt;b&gt;" in html
    assert "a<b>" not in html


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", WHOLE[:4], phase="Running", torn='{"iteration": 4, "accu')
    (run_dir / "plans" / "000004.json").write_text('{"prompt_ids": ["1"')
    run = read_run(run_dir)
    assert [each["iteration"] for each in run.lines] == [0, 1, 2, 3]
    html = render(run)
    assert "2 half-written records were left out." in html
    assert "The run has not ended (Running)" in html


def test_an_iteration_repeated_after_a_restart_counts_once(tmp_path: Path) -> None:
    again = line(2, 0.35)
    lines = [*WHOLE[:3], {**line(3), "samples_total": 1}, again, line(3)]
    run = read_run(write_run(tmp_path / "run", lines))
    assert [each["iteration"] for each in run.lines] == [0, 1, 2, 3]
    assert run.lines[2]["eval"] == again["eval"]
    assert run.lines[3]["samples_total"] == 384


@pytest.mark.parametrize("lines", [[before_training(0.1)], [line(1)], [line(1, 0.2)]])
def test_a_run_that_got_no_further_than_its_first_line_has_a_report(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    run_dir = write_run(tmp_path / "run", lines, phase="Failed")
    assert "The run failed: out of disk." in write_report(run_dir).read_text()
    assert (run_dir / "convergence.png").exists() == bool(lines[0]["eval"])


def test_a_run_without_anything_measured_has_a_report(tmp_path: Path) -> None:
    bare: dict[str, Any] = {**dict.fromkeys(line(1)), "iteration": 1, "seconds": {}}
    run_dir = write_run(tmp_path / "run", [bare])
    (run_dir / "plans" / "000001.json").unlink()
    html = write_report(run_dir).read_text()
    assert "No accuracy was measured; add spec.evaluation.datasets" in html
    assert "<svg" not in html


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no run directory \(it has no job\.yaml\)"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no iteration yet"):
        write_report(write_run(tmp_path / "run", []))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.24, "8.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (float("nan"), "not measured")],
)
def test_durations_read_as_a_person_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def run_of(tmp_path: Path, policy: str, seed: int, accuracies: list[float], **changes: dict[str, Any]) -> Path:
    """A run evaluated before training and at iterations 2, 4, …"""
    lines = [before_training(accuracies[0])]
    lines += [line(2 * i, accuracy) for i, accuracy in enumerate(accuracies) if i]
    name = f"{policy}-{seed}" + "".join(changes)
    return write_run(tmp_path / name, lines, manifest=job(policy, seed, **changes))


def test_curves_average_seeds_and_measure_their_spread(tmp_path: Path) -> None:
    runs = [
        read_run(run_of(tmp_path, "uniform", 0, [0.1, 0.2, 0.3, 0.4])),
        read_run(run_of(tmp_path, "uniform", 1, [0.1, 0.3, 0.4, 0.5])),
        read_run(run_of(tmp_path, "gvm", 0, [0.1, 0.5, 0.6])),
    ]
    check_comparable(runs)
    uniform, gvm = curves(runs)
    assert (uniform.policy, uniform.num_runs, uniform.iterations) == ("uniform", 2, (0, 2, 4))
    np.testing.assert_allclose(uniform.accuracy, [0.1, 0.25, 0.35])
    np.testing.assert_allclose(uniform.spread, [0, 0.05 * 2**0.5, 0.05 * 2**0.5])
    np.testing.assert_allclose(gvm.samples, [0, 256, 512])
    assert np.isnan(gvm.spread).all()
    assert comparison_table([uniform, gvm]) == [
        ("allocation", "seeds", "accuracy at the end", "best", "samples", "samples to 35.0% (uniform's best)"),
        ("uniform", "2", "35.0% ± 7.1", "35.0%", "512", "512"),
        ("gvm", "1", "60.0%", "60.0%", "512", "256 (2.0x fewer)"),
    ]
    html = render_comparison(runs, (uniform, gvm))
    assert "Fewer than three seeds of uniform, gvm" in html
    assert html.count("<svg") == 1


def test_a_policy_that_never_reaches_the_baseline_is_told_so(tmp_path: Path) -> None:
    runs = [
        read_run(run_of(tmp_path, "gvm", 0, [0.1, 0.2, 0.2])),
        read_run(run_of(tmp_path, "uniform", 0, [0.1, 0.2, 0.4])),
    ]
    table = comparison_table(curves(runs))
    assert table[1][-1] == "not reached"
    assert table[2][-1] == "512"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"allocation": {"samplesPerPrompt": 16}}, "spec.allocation.samplesPerPrompt: 8 in "),
        ({"algorithm": {"promptsPerIteration": 32}}, "spec.algorithm.promptsPerIteration: 16 in "),
        ({"algorithm": {"updatesPerIteration": 1}}, "spec.algorithm.updatesPerIteration: 4 in "),
        ({"algorithm": {"klCoefficient": 0.1}}, "spec.algorithm.klCoefficient: 0.0 in "),
        ({"learner": {"learningRate": 1e-4}}, "spec.learner.learningRate: 1e-06 in "),
        ({"dataset": {"path": "other.jsonl"}}, "spec.dataset.path: 'train.jsonl' in "),
        ({"model": {"path": "other"}}, "spec.model.path: 'a<b>' in "),
    ],
)
def test_runs_that_differ_in_more_than_allocation_are_refused(
    tmp_path: Path, changes: dict[str, dict[str, Any]], named: str
) -> None:
    runs = [
        read_run(run_of(tmp_path, "uniform", 0, [0.1, 0.2])),
        read_run(run_of(tmp_path, "gvm", 0, [0.1, 0.2], **changes)),
    ]
    with pytest.raises(ValueError) as caught:
        check_comparable(runs)
    assert str(caught.value).startswith(named)
    assert len(str(caught.value).splitlines()) == 1


def test_seeds_lengths_and_policies_may_differ(tmp_path: Path) -> None:
    longer = {"algorithm": {"maxIterations": 9, "promptsPerIteration": PROMPTS, "seed": 1}}
    check_comparable(
        [
            read_run(run_of(tmp_path, "uniform", 0, [0.1, 0.2])),
            read_run(run_of(tmp_path, "gvm", 1, [0.1, 0.2], **longer)),
        ]
    )


def test_runs_averaged_under_one_policy_have_one_allocation_and_seeds_of_their_own(tmp_path: Path) -> None:
    first = read_run(run_of(tmp_path, "gvm", 0, [0.1, 0.2]))
    other = read_run(run_of(tmp_path, "gvm", 1, [0.1, 0.2], allocation={"pilotSamples": 2}))
    with pytest.raises(ValueError, match=r"spec\.allocation\.pilotSamples: 4 in .* runs of policy gvm are averaged"):
        check_comparable([first, other])
    with pytest.raises(ValueError, match=r"both have policy gvm and seed 0; give each run its own seed"):
        check_comparable([first, read_run(first.directory)])
    with pytest.raises(ValueError, match="give at least two"):
        check_comparable([first])


def test_runs_without_a_common_evaluation_are_refused(tmp_path: Path) -> None:
    runs = [read_run(run_of(tmp_path, "uniform", 0, [0.1])), read_run(write_run(tmp_path / "b", [line(1)]))]
    with pytest.raises(ValueError, match="share no evaluated iteration"):
        curves(runs)
