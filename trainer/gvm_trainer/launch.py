"""Starts this node's share of the torchrun gang: `python -m gvm_trainer.launch`.

Owns nothing but the command line. The node's rank is JOB_COMPLETION_INDEX, as an Indexed Job sets it; 0 without.
"""

import os
import sys

from gvm_api import env
from gvm_api.load import load_job
from gvm_api.spec import LearnerSpec


def torchrun_command(learner: LearnerSpec, *, node_rank: int, host: str, port: int) -> list[str]:
    """torchrun's arguments for one node."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={learner.replicas}",
        f"--node-rank={node_rank}",
        f"--nproc-per-node={learner.processes_per_node}",
        f"--master-addr={host}",
        f"--master-port={port}",
        "--max-restarts=0",  # a failure ends the gang; whoever started it restarts all of it from the checkpoint
        "-m",
        "gvm_trainer",
    ]


def main() -> None:
    """Replace this process by torchrun."""
    settings = env.learner_env()
    job = load_job(settings.job_file)
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads(job.spec.learner)))
    command = torchrun_command(
        job.spec.learner,
        node_rank=int(os.environ.get("JOB_COMPLETION_INDEX") or 0),
        host=env.require(env.RENDEZVOUS_HOST),
        port=int(env.require(env.RENDEZVOUS_PORT)),
    )
    os.execv(command[0], command)


def _threads(learner: LearnerSpec) -> int:
    """Threads of one process; torchrun's own default is 1, which leaves cores idle on a CPU."""
    return max(1, len(os.sched_getaffinity(0)) // learner.processes_per_node)


if __name__ == "__main__":
    main()
