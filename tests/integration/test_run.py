"""Whole runs by `gvm run`, on real vLLM servers, allocator and learner, with a few prompts and iterations.

| case | what must hold |
|---|---|
| a short run | exit 0, the budget met on average, ledger = samples, a Hugging Face folder, a report, no process |
| killed and run again | it goes on after the last checkpoint; each iteration stands once; nothing is counted twice |
| killed, and its newest checkpoint damaged | it says so, and goes on from the checkpoint before it |
| a reward that always raises | exit 2 after the first samples, in the function's own words, no restart |
| grpo in two stages, filesystem sync, two ranks, two servers | the other backends of the same contract |
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 400


def short_job(folder: Path, name: str, **changes: dict[str, Any]) -> Path:
    job = yaml.safe_load((ROOT / "examples/arithmetic.yaml").read_text())
    job["metadata"]["name"] = name
    spec = job["spec"]
    spec["algorithm"] |= {"maxIterations": 3, "promptsPerIteration": 64, "updatesPerIteration": 2}
    spec["allocation"] |= {"samplesPerPrompt": 1}
    spec["evaluation"]["everyIterations"] = 3
    spec["evaluation"]["datasets"][0]["limit"] = 32
    spec["storage"]["checkpointEveryIterations"] = 1
    for section, values in changes.items():
        spec.setdefault(section, {}).update(values)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


def start(file: Path, run_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gvm_cli.main", "run", str(file), "--run-dir", str(run_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[str], run_dir: Path) -> str:
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate(timeout=30)
        raise
    logs = "".join(f"\n== {log.name}\n{log.read_text()[-3000:]}" for log in sorted((run_dir / "logs").glob("*.log")))
    assert process.returncode == 0, output + logs
    return output


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def ledger(run_dir: Path) -> dict[str, int]:
    with sqlite3.connect(run_dir / "allocator.sqlite") as db:
        totals = db.execute("SELECT totals FROM jobs").fetchone()[0]
    db.close()
    found: dict[str, int] = json.loads(totals)
    return found


def check_records(run_dir: Path, *, iterations: int) -> None:
    """Each iteration stands once, and line, plan and ledger have counted the same samples."""
    lines = metrics(run_dir)
    assert [line["iteration"] for line in lines] == list(range(iterations + 1))
    counted, num_samples = ledger(run_dir), 0
    for line in lines[1:]:
        plan = json.loads((run_dir / f"plans/{line['iteration']:06}.json").read_text())
        planned = sum(plan["pilot_sizes"]) + sum(plan["sample_sizes"])
        assert planned == line["num_samples_pilot"] + line["num_samples_main"]
        num_samples += planned
        assert line["samples_total"] == num_samples
        assert line["parity_mean_abs"] < 1e-4
    assert counted["numPilot"] + counted["numMain"] == num_samples
    assert counted["numTokens"] == lines[-1]["tokens_total"]
    assert json.loads((run_dir / "status.json").read_text())["phase"] == "Succeeded"


def check_final_checkpoint(run_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = run_dir / "checkpoints/final"
    model = AutoModelForCausalLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "2+3="}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = tokenizer.decode(model.generate(**ids, do_sample=False, max_new_tokens=40)[0], skip_special_tokens=True)
    assert "#" in answer


def check_samples(run_dir: Path, *, iterations: int) -> None:
    """Every sample of the ledger is a row that says what the plan knew of its prompt."""
    import pyarrow.dataset as ds

    files = sorted((run_dir / "samples").glob("*.parquet"))
    assert len(files) == iterations
    rows = ds.dataset(files).to_table().to_pylist()
    counted = ledger(run_dir)
    assert len(rows) == counted["numPilot"] + counted["numMain"]
    assert sum(row["num_tokens"] for row in rows) == counted["numTokens"]
    assert {row["iteration"] for row in rows} == set(range(1, iterations + 1))
    for row in rows:
        assert 0 < row["accept_rate"] < 1
        assert row["grad_norm"] > 0
        assert row["sample_size"] >= 1
    newest = json.loads((run_dir / "latest_samples.json").read_text())
    assert newest["iteration"] == iterations
    assert 0 < len(newest["samples"]) <= 48


def processes_of(run_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(run_dir) in " ".join(process.environ().values()) and process.pid != os.getpid():
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def test_a_short_run_meets_its_budgets_and_leaves_a_policy_a_report_and_no_process(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    output = finish(start(short_job(tmp_path, "short", learner={"reportTo": ["tensorboard"]}), run_dir), run_dir)
    assert "variance, predicted" in output
    assert re.search(r"live page: http://127\.0\.0\.1:\d+/#token=", output)
    assert re.search(r"iteration +3/3 ", output)
    assert re.search(r"iteration +3/3 ", (run_dir / "logs/learner-0.log").read_text())
    check_records(run_dir, iterations=3)
    last = metrics(run_dir)[-1]
    assert 0.8 * 3 * 64 < last["samples_total"] < 1.2 * 3 * 64, "the budget is met on average"
    assert last["price"] > 0
    assert last["num_replayed"] > 0
    check_final_checkpoint(run_dir)
    assert (run_dir / "report.html").stat().st_size > 10_000
    check_samples(run_dir, iterations=3)
    assert list((run_dir / "tensorboard").glob("events.out.tfevents.*"))
    assert processes_of(run_dir) == []


def kill_after(iteration: int, process: subprocess.Popen[str], run_dir: Path) -> None:
    """Kill a run when it has a checkpoint of an iteration."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (run_dir / f"checkpoints/iteration-{iteration:06}/loop.json").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_run_that_is_killed_goes_on_from_its_checkpoint_and_counts_nothing_twice(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    file = short_job(tmp_path, "killed")
    kill_after(1, start(file, run_dir), run_dir)
    output = finish(start(file, run_dir), run_dir)
    assert f"resuming killed in {run_dir}" in output
    check_records(run_dir, iterations=3)
    assert processes_of(run_dir) == []


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    file = short_job(tmp_path, "damaged")
    kill_after(2, start(file, run_dir), run_dir)
    newest = max((run_dir / "checkpoints").glob("iteration-??????"))
    (optimiser,) = newest.glob("state/*optim_states.pt")
    optimiser.write_bytes(optimiser.read_bytes()[:-1000])
    output = finish(start(file, run_dir), run_dir)
    before = f"iteration-{int(newest.name.rpartition('-')[2]) - 1:06}"
    assert f"checkpoint {newest.name} is damaged (state/{optimiser.name} differs from what was written)" in output
    assert f"kept as {newest.name}.damaged; the run goes on from {before}" in output
    assert newest.with_name(newest.name + ".damaged").is_dir()
    check_records(run_dir, iterations=3)
    assert json.loads((run_dir / "status.json").read_text())["restarts"] == 0


def test_a_reward_that_always_raises_exits_2_in_its_own_words_and_is_not_restarted(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text("def score(completion, answer):\n    raise ValueError('no digits in it')\n")
    run_dir = tmp_path / "run"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    uniform = {"policy": "uniform", "samplesPerPrompt": 1}
    file = short_job(tmp_path, "mute", allocation=uniform, learner={"env": [{"name": "PYTHONPATH", "value": path}]})
    job = yaml.safe_load(file.read_text())
    job["spec"]["reward"] = {"type": "python", "function": "my_rewards:score"}
    file.write_text(yaml.safe_dump(job))
    process = start(file, run_dir)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 2, output
    assert output.splitlines()[-1] == (
        "gvm: spec.reward: my_rewards:score raised ValueError: no digits in it; 64 of 64 samples of iteration 1 have "
        "no verdict, and nothing can be trained on those: correct reward.function, and try it on a completion with "
        "`gvm score --reward python`"
    )
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["phase"], status["restarts"]) == ("Failed", 0)
    assert (run_dir / "samples/000001.parquet").exists(), "the completions are there to look at"
    assert processes_of(run_dir) == []


def test_grpo_on_two_ranks_and_two_servers_with_filesystem_sync(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    file = short_job(
        tmp_path,
        "wide",
        algorithm={"name": "grpo", "klCoefficient": 0.001, "maxIterations": 2, "promptsPerIteration": 16},
        allocation={
            "policy": "gvm_paper",
            "schedule": "two_stage",
            "samplesPerPrompt": 4,
            "pilotSamples": 2,
            "minSamples": 2,
            "gradNorm": {"source": "current", "parameters": "head"},
        },
        rollout={"replicas": 2},
        learner={"processesPerNode": 2, "zeroStage": 3, "gradientCheckpointing": True},
        weightSync={"backend": "filesystem"},
    )
    finish(start(file, run_dir), run_dir)
    check_records(run_dir, iterations=2)
    assert [line["samples_total"] for line in metrics(run_dir)[1:]] == [64, 128], "a plan meets its budget exactly"
    assert metrics(run_dir)[-1]["realised_variance"] > 0
    check_final_checkpoint(run_dir)
    assert metrics(run_dir)[-1]["reference_kl"] >= 0


def test_data_without_the_named_column_exits_2_with_one_line_and_no_restart(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(short_job(tmp_path, "wrong", dataset={"promptField": "question"}), run_dir)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 2, output
    last = output.splitlines()[-1]
    assert last.startswith("gvm: spec.dataset.promptField: 'question' is no column of")
    assert json.loads((run_dir / "status.json").read_text())["restarts"] == 0
    assert processes_of(run_dir) == []
