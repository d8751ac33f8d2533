"""A cluster for the operator's tests: KUBECONFIG names it, the tests bring namespace, operator and kubelet.

Its pods never reach a node (no node has the label that they select), so that the tests can say in the kubelet's place
what becomes of them; Deployments, Jobs, scheduling and garbage collection are the cluster's own.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kubernetes import client
from needed import HAS_CLUSTER, NO_CLUSTER

from gvm_operator.cluster import Cluster, ClusterError, connect
from gvm_operator.tokens import token

ROOT = Path(__file__).parents[2]
KEY = b"a key of the tests, of some length"
Manifest = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.skipif(not HAS_CLUSTER, reason=NO_CLUSTER))


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", "--request-timeout=20s", *arguments], input=stdin, text=True, capture_output=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def eventually(check: Callable[[], Any], *, within: float = 20.0, what: str = "") -> Any:
    """The first true answer of `check`; an AssertionError with the last one when there is none in time."""
    end, answer = time.monotonic() + within, None
    while time.monotonic() < end:
        answer = check()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {within:g} s: {what or check} (last answer: {answer!r})")


WITHOUT_PODS = ("ConfigMap", "Deployment", "Job", "NetworkPolicy", "PersistentVolumeClaim", "Service")


def all_objects(name: str) -> list[str]:
    """What a job that runs its first attempt owns, Secret and pods left out."""
    return [
        f"ConfigMap/{name}-job",
        f"Deployment/{name}-allocator",
        f"Deployment/{name}-rollout",
        f"Job/{name}-learner-0",
        f"NetworkPolicy/{name}-allocator",
        f"NetworkPolicy/{name}-learner",
        f"NetworkPolicy/{name}-rollout",
        f"PersistentVolumeClaim/{name}-run",
        f"Service/{name}-allocator",
        f"Service/{name}-learner",
        f"Service/{name}-rollout",
    ]


class Bench:
    """A namespace, and hands to work in it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.cluster = Cluster(connect(), namespaces=[namespace])
        self._core = client.CoreV1Api(connect())

    def apply(self, *names: str, spec: Manifest | None = None) -> None:
        """Create jobs of two servers; `spec` is laid over, section by section."""
        documents = yaml.safe_dump_all([job(name, spec) for name in names])
        self.kubectl("apply", "--validate=false", "-f", "-", stdin=documents)

    def is_refused(self, name: str, spec: Manifest, *, naming: str) -> bool:
        """Apply a job that a cluster with CEL rules refuses by a message with `naming`; else it is there."""
        try:
            self.apply(name, spec=spec)
        except AssertionError as error:
            if naming not in str(error):
                raise
            return True
        return False

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def patch(self, name: str, spec: Manifest) -> None:
        self.cluster.patch("GVMTrainingJob", self.namespace, name, {"spec": spec})

    def job(self, name: str) -> Manifest:
        return self.cluster.get("GVMTrainingJob", self.namespace, name)

    def exists(self, kind: str, name: str) -> bool:
        try:
            self.cluster.get(kind, self.namespace, name)
        except ClusterError as error:
            if error.code != 404:
                raise
            return False
        return True

    def status(self, name: str) -> Manifest:
        found: Manifest = self.job(name).get("status") or {}
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase", ""))

    def until_phase(self, name: str, phase: str, *, within: float = 20.0) -> Manifest:
        eventually(lambda: self.phase(name) == phase, within=within, what=f"{name} is {phase}: {self.status(name)}")
        return self.status(name)

    def condition(self, name: str, kind: str) -> Manifest:
        found = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def until_condition(self, name: str, kind: str, *, within: float = 20.0, **wanted: str) -> Manifest:
        def check() -> bool:
            return wanted.items() <= self.condition(name, kind).items()

        eventually(check, within=within, what=f"{name} {kind} {wanted}")
        return self.condition(name, kind)

    def children(self, name: str, *kinds: str) -> list[str]:
        """Kind/name of all that carries the job's label, in order."""
        wanted = kinds or (*WITHOUT_PODS, "Pod")
        return sorted(
            f"{kind}/{item['metadata']['name']}"
            for kind in wanted
            for item in self.cluster.list(kind).items
            if item["metadata"]["labels"]["gvm.rlhflow.dev/job"] == name
        )

    def objects(self, name: str) -> list[str]:
        """The same without pods."""
        return self.children(name, *WITHOUT_PODS)

    def pods(self, name: str, role: str) -> list[Manifest]:
        return [
            pod
            for pod in self.cluster.list("Pod").items
            if pod["metadata"]["labels"]["gvm.rlhflow.dev/job"] == name
            and pod["metadata"]["labels"]["app.kubernetes.io/component"] == role
        ]

    def live_pods(self, name: str, role: str) -> list[Manifest]:
        return [pod for pod in self.pods(name, role) if pod["status"]["phase"] not in ("Failed", "Succeeded")]

    def set_pod(self, pod: Manifest, **status: Any) -> None:
        """Say of a pod what its kubelet would. One that is gone by now is passed over."""
        try:
            self._core.patch_namespaced_pod_status(pod["metadata"]["name"], self.namespace, {"status": status})
        except client.ApiException as error:
            if error.status != 404:
                raise

    def hold(self, pod: str) -> None:
        """Keep a pod that is deleted, as a node does that takes its time."""
        self._core.patch_namespaced_pod(pod, self.namespace, {"metadata": {"finalizers": ["gvm.rlhflow.dev/test"]}})

    def release(self, pod: str) -> None:
        """Let it go."""
        self._core.patch_namespaced_pod(pod, self.namespace, {"metadata": {"finalizers": None}})

    def run_pods(self, name: str, role: str, num_pods: int = 1) -> None:
        """Wait for a role's pods, and make them ready."""
        for pod in self.wait_for_pods(name, role, num_pods):
            self.set_pod(pod, phase="Running", conditions=[{"type": "Ready", "status": "True"}])

    def wait_for_pods(self, name: str, role: str, num_pods: int) -> list[Manifest]:
        eventually(lambda: len(self.live_pods(name, role)) >= num_pods, what=f"{num_pods} pods of {name} {role}")
        return self.live_pods(name, role)

    def run_all(self, name: str, *, num_servers: int = 2) -> None:
        self.run_pods(name, "allocator")
        self.run_pods(name, "rollout", num_servers)
        self.run_pods(name, "learner")

    def end_learner(self, name: str, *, exit_code: int, message: str = "") -> None:
        """End the learner's pods that run."""
        end = {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else "Error"}
        end |= {"message": message} if message else {}
        statuses = [container_status("learner", {"terminated": end})]
        phase = "Succeeded" if exit_code == 0 else "Failed"
        for pod in self.live_pods(name, "learner"):
            self.set_pod(
                pod, phase=phase, containerStatuses=statuses, conditions=[{"type": "Ready", "status": "False"}]
            )

    def has_all_objects(self, name: str) -> bool:
        return self.objects(name) == all_objects(name)

    def events(self, name: str) -> list[Manifest]:
        found = self._core.list_namespaced_event(self.namespace, field_selector=f"involvedObject.name={name}")
        return [
            {"reason": e.reason, "type": e.type, "message": e.message, "count": e.count}
            for e in found.items
            if e.involved_object.kind == "GVMTrainingJob"
        ]


def container_status(name: str, state: Manifest) -> Manifest:
    return {"name": name, "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def job(name: str, spec: Manifest | None = None) -> Manifest:
    base: Manifest = {
        "model": {"path": "examples/arithmetic/policy"},
        "dataset": {"path": "examples/arithmetic/train.jsonl"},
        "rollout": {"replicas": 2},
    }
    for section, fields in (spec or {}).items():
        base[section] = {**base.get(section, {}), **fields}
    for role in ("rollout", "learner", "allocator"):
        base[role] = {"nodeSelector": {"gvm-test": "no-node-has-this"}, **base.get(role, {})}
    return {
        "apiVersion": "gvm.rlhflow.dev/v1alpha1",
        "kind": "GVMTrainingJob",
        "metadata": {"name": name},
        "spec": base,
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class OperatorProcess:
    """`python -m gvm_operator` over one namespace, as its image runs it."""

    def __init__(
        self, namespace: str, folder: Path, *, allocator_url: str = "http://127.0.0.1:1", own_namespace: str = ""
    ) -> None:
        self.metrics_port, self.health_port = free_port(), free_port()
        key = folder / "key"
        key.write_bytes(KEY)
        self.log = folder / f"operator-{uuid.uuid4().hex[:6]}.log"
        settings = {
            "WATCH_NAMESPACES": namespace,
            "NAMESPACE": own_namespace,
            "TOKEN_KEY_FILE": str(key),
            "ALLOCATOR_URL": allocator_url,
            "PROGRESS_SECONDS": "0.5",
            "RESYNC_SECONDS": "5",
            "METRICS_PORT": str(self.metrics_port),
            "HEALTH_PORT": str(self.health_port),
        }
        self._environment = {**os.environ, **{f"GVM_OPERATOR_{name}": value for name, value in settings.items()}}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "OperatorProcess":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gvm_operator"], env=self._environment, stdout=log, stderr=log
            )
        eventually(self.is_healthy, within=60, what=f"the operator is healthy; see {self.log}")
        return self

    def is_healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.health_port}/healthz", timeout=5).status_code == 200
        return False

    def kill(self) -> None:
        """SIGKILL: no time to put anything in order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            finally:
                self.process.kill()

    def metrics(self) -> dict[str, float]:
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


class Allocator:
    """A real allocator on this machine that stands for those of a namespace's jobs."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self._namespace, self._folder, self.port = namespace, folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

    def start(self, name: str) -> None:
        """Serve the job of this name, whose token the operator derives."""
        self.stop()
        self._token = token(KEY, self._namespace, name)
        variables = {
            "GVM_RUN_DIR": str(self._folder),
            "GVM_HOST": "127.0.0.1",
            "GVM_PORT": str(self.port),
            "GVM_ALLOCATOR_TOKEN": self._token,
            "GVM_NAMESPACE": self._namespace,
        }
        self._process = subprocess.Popen([sys.executable, "-m", "gvm_allocator"], env={**os.environ, **variables})

        def is_up() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
            return False

        eventually(is_up, what="the allocator answers")
        self._put(name, "", {"allocation": {}})

    def report(self, name: str, **progress: Any) -> None:
        """What the learner would say of its progress."""
        self._put(name, "/progress", progress)

    def _put(self, name: str, path: str, body: Manifest) -> None:
        url = f"http://127.0.0.1:{self.port}/v1/jobs/{name}{path}"
        answer = httpx.put(url, json=body, headers={"Authorization": f"Bearer {self._token}"}, timeout=5)
        assert answer.status_code == 200, answer.text

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def wait() -> Callable[..., Any]:
    return eventually


@pytest.fixture(scope="session")
def crd() -> None:
    """The CustomResourceDefinition of this tree."""
    # An old API server does not know every keyword of a schema's validation; it validates what it admits itself.
    kubectl("apply", "--validate=false", "-f", str(ROOT / "crds/gvmtrainingjobs.yaml"))
    # Not `kubectl wait`, which takes a definition that has no status yet for an error.
    eventually(lambda: "Established=True" in _conditions_of_the_crd(), within=30.0)


def _conditions_of_the_crd() -> str:
    template = "{range .status.conditions[*]}{.type}={.status} {end}"
    return kubectl("get", "crd", "gvmtrainingjobs.gvm.rlhflow.dev", "-o", f"jsonpath={template}")


@pytest.fixture
def bench(crd: None) -> Iterator[Bench]:
    """A namespace of its own."""
    name = f"gvm-test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield Bench(name)
    kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def allocator(bench: Bench, tmp_path: Path) -> Iterator[Allocator]:
    found = Allocator(bench.namespace, tmp_path)
    yield found
    found.stop()


@pytest.fixture
def operator(bench: Bench, allocator: Allocator, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator over the namespace."""
    process = OperatorProcess(bench.namespace, tmp_path, allocator_url=f"http://127.0.0.1:{allocator.port}").start()
    yield process
    process.stop()
    log = process.log.read_text()
    assert "Traceback" not in log, log


@pytest.fixture
def operator_within(bench: Bench, tmp_path: Path) -> Iterator[OperatorProcess]:
    """An operator that lives in the namespace that it serves."""
    process = OperatorProcess(bench.namespace, tmp_path, own_namespace=bench.namespace).start()
    yield process
    process.stop()


@pytest.fixture
def second_operator(bench: Bench, allocator: Allocator, tmp_path: Path) -> Iterator[OperatorProcess]:
    """Another one, over the same namespace."""
    process = OperatorProcess(bench.namespace, tmp_path, allocator_url=f"http://127.0.0.1:{allocator.port}").start()
    yield process
    process.stop()
