"""Starts one job's rollout servers, as the local runner does, for a benchmark to load."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gvm_api import env
from gvm_api.spec import GVMTrainingJob
from gvm_cli import processes
from gvm_cli.ports import free_ports
from gvm_operator import containers
from gvm_operator.site import Images, cluster_site
from gvm_trainer.rollouts import RolloutClient


@contextmanager
def rollout_server(job: GVMTrainingJob, log: Path) -> Iterator[str]:
    """One vLLM server of the job's policy; yields its URL once it answers."""
    (port,) = free_ports(1)
    container = containers.rollout(job, cluster_site(job, Images()))
    variables = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    variables |= {env.HOST: "127.0.0.1", env.PORT: str(port)}
    process = processes.start("rollout", container["command"], variables, log=log)
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(_wait(url, AutoTokenizer.from_pretrained(job.spec.model.path)))
        yield url
    finally:
        processes.stop([process])


async def _wait(url: str, tokenizer: PreTrainedTokenizerBase) -> None:
    async with RolloutClient(
        [url], tokenizer=tokenizer, max_tokens=1, concurrency=1, timeout_seconds=60, retries=0
    ) as client:
        await client.wait_until_ready(300)
