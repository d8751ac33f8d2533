"""A node's torchrun command, and the process that becomes it: a stand-in for torchrun says how it was started."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gvm_api.spec import LearnerSpec
from gvm_trainer.launch import torchrun_command

JOB = """
apiVersion: gvm.rlhflow.dev/v1alpha1
kind: GVMTrainingJob
metadata: {name: job-1}
spec:
  model: {path: policy}
  dataset: {path: train.jsonl}
  learner: {replicas: 3, processesPerNode: 2}
"""

STAND_IN = """
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "threads": os.environ["OMP_NUM_THREADS"], "process": os.getpid()}))
"""


def test_the_command_of_one_node_among_several() -> None:
    learner = LearnerSpec(replicas=4, processes_per_node=8)
    assert torchrun_command(learner, node_rank=2, host="job-1-learner-0", port=29500) == [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=4",
        "--node-rank=2",
        "--nproc-per-node=8",
        "--master-addr=job-1-learner-0",
        "--master-port=29500",
        "--max-restarts=0",
        "-m",
        "gvm_trainer",
    ]


def launch(tmp_path: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """The launcher's process id, and what torchrun would have got."""
    stand_in = tmp_path / "torch" / "distributed"
    stand_in.mkdir(parents=True)
    for package in (stand_in.parent, stand_in):
        (package / "__init__.py").touch()
    (stand_in / "run.py").write_text(STAND_IN)
    (tmp_path / "job.yaml").write_text(JOB)
    inherited = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "JOB_COMPLETION_INDEX")}
    settings = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "GVM_JOB_FILE": str(tmp_path / "job.yaml"),
        "GVM_RUN_DIR": str(tmp_path),
        "GVM_LEARNER_ID": "pod-uid",
        "GVM_ALLOCATOR_URL": "http://allocator:8001",
        "GVM_ALLOCATOR_TOKEN": "secret",
        "GVM_ROLLOUT_URLS": "http://rollout:8000",
        "GVM_WEIGHTS_HOST": "127.0.0.1",
        "GVM_WEIGHTS_PORT": "9000",
        "GVM_HOST": "127.0.0.1",
        "GVM_PORT": "8000",
        "GVM_RENDEZVOUS_HOST": "job-1-learner-0",
        "GVM_RENDEZVOUS_PORT": "29400",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gvm_trainer.launch"],
        env=inherited | settings | environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return process.pid, json.loads(out)


def test_the_launcher_becomes_torchrun_with_the_jobs_shape(tmp_path: Path) -> None:
    pid, started = launch(tmp_path, JOB_COMPLETION_INDEX="2")
    assert started["process"] == pid, "signals reach torchrun itself"
    assert started["arguments"] == [
        "--nnodes=3",
        "--node-rank=2",
        "--nproc-per-node=2",
        "--master-addr=job-1-learner-0",
        "--master-port=29400",
        "--max-restarts=0",
        "-m",
        "gvm_trainer",
    ]


@pytest.mark.parametrize("index", [{}, {"JOB_COMPLETION_INDEX": ""}], ids=["unset", "empty"])
def test_without_an_index_the_node_is_the_first(tmp_path: Path, index: dict[str, str]) -> None:
    _, started = launch(tmp_path, **index)
    assert "--node-rank=0" in started["arguments"]


def test_threads_are_shared_out_where_nobody_set_them(tmp_path: Path) -> None:
    _, started = launch(tmp_path)
    assert int(started["threads"]) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_threads_that_somebody_set_stay(tmp_path: Path) -> None:
    _, started = launch(tmp_path, OMP_NUM_THREADS="7")
    assert started["threads"] == "7"
