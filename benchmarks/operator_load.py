"""The operator on a real API server: time to create a job's children, requests, memory.

    KUBECONFIG=... python -m benchmarks.operator_load [--json] [--jobs 1,100,500]

Jobs are applied with kubectl in one call; `seconds` runs from that call's end to the last job's last child (of 11) and
status. The peer is kubectl itself: the same children, rendered beforehand, by one `kubectl create` (`ratio` is its time
over ours, above 1 is better). Pods stay without a node: what is measured is the operator, not the cluster. Requests
are the operator's own count, watches left out; memory is the process's resident size when all is settled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from gvm_api import yaml_format
from gvm_api.load import validate_job
from gvm_cli.ports import free_ports
from gvm_operator import manifests
from gvm_operator.cluster import CHILD_KINDS, Cluster, ClusterError, connect
from gvm_operator.network import Neighbours
from gvm_operator.site import Images, cluster_site

CHILDREN = 11
"""Objects of a job: ConfigMap, claim, 3 policies, 3 Services, 2 Deployments, a Job; the Secret is not looked at."""
ROOT = Path(__file__).parents[1]
_LIMIT_SECONDS = 600.0


def manifest(name: str, namespace: str) -> dict[str, Any]:
    """A job whose pods fit no node."""
    nowhere = {"nodeSelector": {"gvm-benchmark": "no-node-has-this"}}
    return {
        "apiVersion": "gvm.rlhflow.dev/v1alpha1",
        "kind": "GVMTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"path": "examples/arithmetic/policy"},
            "dataset": {"path": "examples/arithmetic/train.jsonl"},
            **dict.fromkeys(("rollout", "learner", "allocator"), nowhere),
        },
    }


def kubectl(*arguments: str, documents: list[dict[str, Any]] | None = None) -> float:
    """Run kubectl; returns its seconds."""
    text = yaml_format.dump(*documents) if documents else None
    begun = time.perf_counter()
    subprocess.run(
        ["kubectl", *arguments], input=text, text=True, check=True, capture_output=True, timeout=_LIMIT_SECONDS
    )
    return time.perf_counter() - begun


@contextmanager
def namespace() -> Iterator[str]:
    """A namespace for a while."""
    name = f"gvm-benchmark-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


class Running:
    """An operator process over one namespace."""

    def __init__(self, name: str, folder: Path) -> None:
        self._health, self._metrics = free_ports(2)
        key = folder / "key"
        key.write_text("a" * 32)
        variables = {
            "WATCH_NAMESPACES": name,
            "TOKEN_KEY_FILE": str(key),
            "ALLOCATOR_URL": "http://127.0.0.1:1",
            "HEALTH_PORT": str(self._health),
            "METRICS_PORT": str(self._metrics),
        }
        environment = {**os.environ, **{f"GVM_OPERATOR_{k}": v for k, v in variables.items()}}
        with (folder / "operator.log").open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "gvm_operator"], env=environment, stderr=log)

    def wait(self) -> None:
        """Until it is healthy."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if httpx.get(f"http://127.0.0.1:{self._health}/healthz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError("the operator is not healthy after 60 s")

    def requests(self) -> int:
        """Requests to the API so far."""
        text = httpx.get(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5).text
        lines = [line for line in text.splitlines() if line.startswith("gvm_operator_api_requests_total{")]
        return int(sum(float(line.rpartition(" ")[2]) for line in lines))

    def memory_mib(self) -> float:
        """Resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


def num_objects(cluster: Cluster) -> int:
    """Children of all jobs, pods left out."""
    found = 0
    for kind in CHILD_KINDS:
        if kind == "Pod":
            continue
        try:
            found += len(cluster.list(kind).items)
        except ClusterError as error:
            if error.code != 404:  # before Kubernetes 1.21 there is no policy/v1
                raise
    return found


def create(cluster: Cluster, name: str, num_jobs: int) -> float:
    """Seconds from kubectl's end to the last child and status."""
    kubectl("apply", "--validate=false", "-f", "-", documents=[manifest(f"j{i:04}", name) for i in range(num_jobs)])
    begun = time.perf_counter()
    while num_objects(cluster) < CHILDREN * num_jobs:
        if time.perf_counter() - begun > _LIMIT_SECONDS:
            raise RuntimeError(f"{num_objects(cluster)} of {CHILDREN * num_jobs} children after {_LIMIT_SECONDS:g} s")
        time.sleep(0.02 if num_jobs == 1 else 0.5)
    while any(not job.get("status") for job in cluster.list("GVMTrainingJob").items):
        time.sleep(0.02)
    return time.perf_counter() - begun


def settle(operator: Running) -> int:
    """Wait until the cluster's own controllers are done and nothing happens any more; returns the requests so far."""
    end, before = time.monotonic() + _LIMIT_SECONDS, -1
    while time.monotonic() < end:
        now = operator.requests()
        if now - before <= len(CHILD_KINDS) + 1:  # a full listing may fall in between
            return now
        before = now
        time.sleep(15)
    raise RuntimeError(f"the operator's requests do not settle in {_LIMIT_SECONDS:g} s")


def ours(num_jobs: int, *, rest_seconds: float) -> dict[str, float]:
    """One round with an operator."""
    with namespace() as name, tempfile.TemporaryDirectory() as folder:
        operator = Running(name, Path(folder))
        try:
            operator.wait()
            cluster = Cluster(connect(), namespaces=[name])
            before = operator.requests()
            seconds = create(cluster, name, num_jobs)
            settled = settle(operator)
            if rest_seconds:
                time.sleep(rest_seconds)
            at_rest = (operator.requests() - settled) * 60 / rest_seconds if rest_seconds else float("nan")
            return {
                "seconds": seconds,
                "requests_per_job": (settled - before) / num_jobs,
                "requests_per_minute_at_rest": at_rest,
                "memory_mib": operator.memory_mib(),
            }
        finally:
            operator.process.terminate()
            operator.process.wait(timeout=60)


def peer(num_jobs: int) -> float:
    """Seconds of kubectl for the same children."""
    with namespace() as name:
        documents = []
        for index in range(num_jobs):
            job = validate_job(manifest(f"j{index:04}", name))
            site = cluster_site(job, Images())
            documents += manifests.children(job, site, token="t", neighbours=Neighbours(operator="default"))
        return kubectl("create", "--validate=false", "-f", "-", documents=documents)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--jobs", default="1,100,500", help="numbers of jobs at once")
    parser.add_argument("--rest-seconds", type=float, default=60.0, help="how long requests at rest are counted")
    options = parser.parse_args()
    kubectl("apply", "--validate=false", "-f", str(ROOT / "crds/gvmtrainingjobs.yaml"))
    results: dict[str, Any] = {}
    for num_jobs in (int(text) for text in options.jobs.split(",")):
        repeats = 5 if num_jobs == 1 else 1
        rounds = [ours(num_jobs, rest_seconds=options.rest_seconds if i == 0 else 0.0) for i in range(repeats)]
        peers = [peer(num_jobs) for _ in range(repeats)]
        seconds = [each["seconds"] for each in rounds]
        results[str(num_jobs)] = {
            **rounds[0],
            "seconds": statistics.median(seconds),
            "seconds_all": seconds,
            "kubectl_seconds": statistics.median(peers),
            "kubectl_seconds_all": peers,
            "ratio": statistics.median(peers) / statistics.median(seconds),
        }
        if not options.json:
            print(
                num_jobs,
                "jobs:",
                {k: v if isinstance(v, list) else round(v, 2) for k, v in results[str(num_jobs)].items()},
            )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
