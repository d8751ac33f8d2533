"""Starts one job's rollout servers, as the local runner does, for a benchmark to load."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from gvm_api import env
from gvm_api.spec import GVMTrainingJob
from gvm_cli import processes
from gvm_cli.ports import free_ports
from gvm_operator import containers
from gvm_operator.site import Images, cluster_site


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
        _wait(url, 300.0)
        yield url
    finally:
        processes.stop([process])


def _wait(url: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5.0, trust_env=False).is_success:
                return
        if time.monotonic() > until:
            raise TimeoutError(f"rollout server {url} is not ready after {seconds:g} s")
        time.sleep(0.25)
