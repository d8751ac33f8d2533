"""The whole product on a cluster, as its user meets it: `make e2e`, or `python tests/e2e/run.py --help`.

Images are built, the chart is installed by Helm, `kubectl apply` runs the arithmetic example (short) to its end.
On the way: a wrong image is named in the status, the live page and all metrics are looked at, a server that is lost
costs what it had not answered, a pause frees all pods, a learner that is killed goes on from its checkpoint. At the
end the job and the release are removed, and nothing of them may be left. Prints the time of every step, and one JSON
object at the end.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
NAMESPACE, SYSTEM, RELEASE = "gvm-e2e", "gvm-e2e-system", "gvm"
"""Of the jobs, and of the operator."""
TARGETS = ("operator", "allocator", "trainer", "rollout")
ITERATIONS = 8
KINDS = "gvmjobs,pods,deployments,replicasets,jobs,services,configmaps,secrets,pvc,networkpolicies"
Manifest = dict[str, Any]


def main() -> None:
    """Run all steps; exit 1 with the first that fails."""
    options = arguments()
    report: dict[str, float | int | str] = {}
    begun = time.perf_counter()
    if not os.environ.get("KUBECONFIG"):
        with step("cluster", report):
            subprocess.run([f"{options.cluster}/up"], check=True)
            found = subprocess.run([f"{options.cluster}/kubeconfig"], check=True, capture_output=True, text=True)
            os.environ["KUBECONFIG"] = found.stdout.strip()
    if not options.no_build:
        for target in TARGETS:
            with step(f"build {target}", report):
                build = [f"{options.cluster}/build-image", f"gvm-{target}:e2e", "--target", target, str(ROOT)]
                subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    with storage(), tempfile.TemporaryDirectory() as folder:
        try:
            everything(report, options.images, Path(folder))
        except AssertionError as error:
            explain(error)
            raise SystemExit(1) from error
        finally:
            kubectl("delete", "gvmjobs", "--all", "--timeout=60s", "--ignore-not-found")
            uninstall()
            run("kubectl", "delete", "namespace", NAMESPACE, SYSTEM, "--timeout=120s", "--ignore-not-found")
    report["total_seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(report))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cluster",
        default=os.environ.get("CLUSTER", "../shared/cluster"),
        help="folder with the commands up, kubeconfig and build-image, used where KUBECONFIG names no cluster",
    )
    parser.add_argument("--no-build", action="store_true", help="the images are in the cluster already")
    parser.add_argument("--images", default="localhost/gvm-{target}:e2e", help="image of each target")
    return parser.parse_args()


def everything(report: Manifest, images: str, folder: Path) -> None:
    """Install, run the jobs, look at all, remove."""
    with step("install", report):
        install(images)
        run("kubectl", "rollout", "status", "-n", SYSTEM, f"deployment/{RELEASE}-gvm-operator", "--timeout=120s")
    with step("a wrong image is named", report):
        wrong_image(report, folder)
    requests_before = operator_requests()
    with step("run", report):
        apply(short_example(), folder)
        created = time.perf_counter()
        until(lambda: len(workloads("arithmetic", "deployments,jobs")) == 3, 30, "the job's workloads")
        report["children_seconds"] = round(time.perf_counter() - created, 2)
        until_running(300)
        report["running_after_seconds"] = round(time.perf_counter() - created, 1)
    with step("look at it", report):
        until(lambda: status().get("iteration", 0) >= 2, 300, "two iterations")
        look_at_the_page()
        look_at_the_metrics()
    with step("a server that is lost is replaced", report):
        lose_the_server(report)
    with step("pause and resume", report):
        pause_and_resume()
    with step("a learner that is killed goes on", report):
        kill_the_learner(report)
    with step("to the end", report):
        until(lambda: status().get("phase") in ("Succeeded", "Failed"), 900, "the end")
        final = status()
        assert final["phase"] == "Succeeded", final
        assert final["iteration"] == ITERATIONS, final
        assert final["accuracy"] > 0.5, final
        assert kubectl("wait", "gvmjob/arithmetic", "--for=condition=Complete", "--timeout=5s")
        report |= {key: final[key] for key in ("accuracy", "acceptRate", "restarts")}
        until(lambda: not workloads("arithmetic"), 60, "servers and allocator to go")
    report["operator_memory_mib"] = operator_memory_mib()
    report["requests_of_the_job"] = operator_requests() - requests_before
    with step("delete", report):
        kubectl("delete", "gvmjob", "arithmetic", "--timeout=60s")
        uninstall()
        until(lambda: not leftovers(), 120, "nothing to be left")


def short_example() -> Manifest:
    """examples/arithmetic.yaml, of fewer iterations, each with its checkpoint."""
    job: Manifest = yaml.safe_load((ROOT / "examples/arithmetic.yaml").read_text())
    job["spec"]["algorithm"]["maxIterations"] = ITERATIONS
    job["spec"]["storage"]["checkpointEveryIterations"] = 1
    job["spec"]["evaluation"]["everyIterations"] = 2
    return job


def wrong_image(report: Manifest, folder: Path) -> None:
    """A job whose image does not exist says so within 30 seconds, in its status and in an event."""
    job = short_example()
    job["metadata"]["name"] = "wrong"
    job["spec"]["rollout"]["image"] = "localhost/nobody/has-this:1"
    apply(job, folder)

    def is_named() -> bool:
        found = [c for c in status("wrong").get("conditions", []) if c["type"] == "RolloutReady"]
        return bool(found) and found[0]["reason"] == "ImagePullBackOff" and "has-this" in found[0]["message"]

    begun = time.perf_counter()
    until(is_named, 30, "the wrong image in the status")
    report["wrong_image_named_seconds"] = round(time.perf_counter() - begun, 1)
    assert "ImagePullBackOff" in kubectl("describe", "gvmjob", "wrong")
    kubectl("delete", "gvmjob", "wrong", "--timeout=60s")
    until(lambda: not workloads("wrong", "pods,deployments,jobs"), 120, "its pods to go")


def until_running(seconds: float) -> None:
    """Wait until the job runs; it must not have failed."""
    until(lambda: status().get("phase") in ("Running", "Failed"), seconds, "the job to run")
    assert status()["phase"] == "Running", status()


def look_at_the_page() -> None:
    """`gvm page` brings the live page and its data here, for who has the token."""
    command = [sys.executable, "-m", "gvm_cli.main", "page", "arithmetic", "--namespace", NAMESPACE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address, _, token = process.stdout.readline().removeprefix("live page: ").strip().partition("#token=")
        assert "<title>" in get(address)
        seen = json.loads(get(f"{address}v1/jobs/arithmetic/run", token))
        assert [line["iteration"] for line in seen["lines"]][:3] == [0, 1, 2], seen
        assert json.loads(get(f"{address}v1/jobs/arithmetic/run/samples", token))["samples"]
        assert status_code(f"{address}v1/jobs/arithmetic/run", "wrong") == 401
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def get(url: str, token: str = "") -> str:
    """The text behind a URL."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def status_code(url: str, token: str) -> int:
    """How a server answers."""
    try:
        get(url, token)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def look_at_the_metrics() -> None:
    """Each role's pods serve their own metrics at the port that the PodMonitor names."""
    code = "import urllib.request as u; print(u.urlopen('http://localhost:8000/metrics', timeout=10).read().decode())"
    for role, metric in (("learner", "gvm_accuracy{"), ("allocator", "gvm_plan_seconds_count{"), ("rollout", "vllm:")):
        pod = next(name for name in workloads("arithmetic", "pods") if role in name)
        assert metric in run("kubectl", "exec", "-n", NAMESPACE, pod, "--", "python", "-c", code), role


def lose_the_server(report: Manifest) -> None:
    """A server's pod that vanishes without a word: its replacement has another address, and the gang goes on."""
    pod = next(name for name in workloads("arithmetic", "pods") if "rollout" in name)
    before, begun = status(), time.perf_counter()
    kubectl("delete", pod, "--force", "--grace-period=0")
    until(lambda: status()["iteration"] > before["iteration"] + 1, 300, "two iterations after the loss of the server")
    report["lost_server_seconds"] = round(time.perf_counter() - begun, 1)
    assert status().get("restarts", 0) == before.get("restarts", 0), status()


def pause_and_resume() -> None:
    """A suspended job has no pods, and goes on where it was."""
    iteration = status()["iteration"]
    kubectl("patch", "gvmjob", "arithmetic", "--type=merge", "-p", '{"spec": {"runPolicy": {"suspend": true}}}')
    until(lambda: status().get("phase") == "Suspended", 120, "the pause")
    assert not workloads("arithmetic", "pods")
    kubectl("patch", "gvmjob", "arithmetic", "--type=merge", "-p", '{"spec": {"runPolicy": {"suspend": false}}}')
    until_running(300)
    assert status()["iteration"] >= iteration, (iteration, status())


def kill_the_learner(report: Manifest) -> None:
    """SIGKILL to a learner: the gang restarts from its checkpoint."""
    pod = next(name for name in workloads("arithmetic", "pods") if "learner" in name)
    before = status()
    others = "(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid()))"
    killer = f"import os; [os.kill(p, 9) for p in {others}]"
    run("kubectl", "exec", "-n", NAMESPACE, pod, "--", "python", "-c", killer)
    until(lambda: status().get("restarts", 0) == 1 or status()["phase"] == "Succeeded", 120, "the restart")
    until(lambda: status().get("phase") in ("Running", "Succeeded"), 300, "the job to run again")
    report["iteration_before_kill"] = before["iteration"]


def install(images: str) -> None:
    """Install the chart by the real Helm."""

    def image(target: str) -> Manifest:
        repository, _, tag = images.format(target=target).rpartition(":")
        return {"repository": repository, "tag": tag}

    has_definition = bool(run("kubectl", "get", "crd", "gvmtrainingjobs.gvm.rlhflow.dev", "--ignore-not-found"))
    values = {
        "images": {"pullPolicy": "IfNotPresent", **{target: image(target) for target in TARGETS}},
        "crds": {"enabled": not has_definition, "keep": False},
        "settings": {"progressSeconds": 2},
        "watchNamespaces": [NAMESPACE],
    }
    for namespace in (NAMESPACE, SYSTEM):
        run("kubectl", "create", "namespace", namespace)
    with closing(helm()) as config:
        config.install(ROOT / "charts/gvm-operator", RELEASE, values)


def helm() -> helm_python.Config:
    """Helm in the operator's namespace. It does not see a KUBECONFIG that is set after the process has begun."""
    return helm_python.Config(namespace=SYSTEM, kubeconfig_path=os.environ["KUBECONFIG"])


def uninstall() -> None:
    """Remove the release, if there is one."""
    with closing(helm()) as config:
        config.uninstall(RELEASE, ignore_not_found=True)


def leftovers() -> list[str]:
    """What is left in both namespaces, but for what every namespace has and what the chart keeps by its promise."""
    kept = ("configmap/kube-root-ca.crt", f"secret/{RELEASE}-gvm-operator-token-key", "secret/default-token-")
    has_definition = run("kubectl", "get", "crd", "gvmtrainingjobs.gvm.rlhflow.dev", "--ignore-not-found")
    kinds = KINDS if has_definition else KINDS.removeprefix("gvmjobs,")
    left = [name for namespace in (NAMESPACE, SYSTEM) for name in names(kinds, namespace)]
    return [name for name in left if not name.startswith(kept)]


@contextmanager
def storage() -> Iterator[None]:
    """A volume for the claim of the example, where the cluster has no default StorageClass to make one."""
    classes = json.loads(run("kubectl", "get", "storageclass", "-o", "json"))["items"]
    default = "storageclass.kubernetes.io/is-default-class"
    if any(each["metadata"].get("annotations", {}).get(default) == "true" for each in classes):
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="gvm-e2e-"))
    folder.chmod(0o777)
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "gvm-e2e"},
        "spec": {
            "capacity": {"storage": "200Gi"},
            "accessModes": ["ReadWriteMany"],
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": NAMESPACE, "name": "arithmetic-run"},
        },
    }
    run("kubectl", "apply", "-f", "-", stdin=yaml.safe_dump(volume))
    try:
        yield
    finally:
        run("kubectl", "delete", "pv", "gvm-e2e", "--wait=false", "--ignore-not-found")
        shutil.rmtree(folder, ignore_errors=True)


def apply(job: Manifest, folder: Path) -> None:
    """`kubectl apply -f` of a job file."""
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    kubectl("apply", "-f", str(file))


def status(name: str = "arithmetic") -> Manifest:
    """A job's status."""
    found: Manifest = json.loads(kubectl("get", "gvmjob", name, "-o", "json")).get("status") or {}
    return found


def names(kinds: str, namespace: str = NAMESPACE) -> list[str]:
    """kind/name of what is in a namespace."""
    found = run("kubectl", "-n", namespace, "get", kinds, "-o", "name", "--ignore-not-found").split()
    return [each.replace(".apps", "").replace(".batch", "") for each in found]


def workloads(job: str, kinds: str = "deployments") -> list[str]:
    """The same of one job."""
    return [name for name in names(kinds) if f"/{job}-" in name]


def operator_memory_mib() -> float:
    """Resident memory of the operator's process, by its own word."""
    code = "print([l.split()[1] for l in open('/proc/1/status') if l.startswith('VmRSS')][0])"
    return round(int(in_operator(code)) / 1024, 1)


def operator_requests() -> int:
    """Requests of the operator to the API so far, full listings and watches left out."""
    text = in_operator("import urllib.request as u; print(u.urlopen('http://localhost:9090/metrics').read().decode())")
    lines = [line for line in text.splitlines() if line.startswith("gvm_operator_api_requests_total{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if 'verb="list"' not in line))


def in_operator(code: str) -> str:
    """What a piece of Python prints in the operator's container."""
    deployment = f"deployment/{RELEASE}-gvm-operator"
    return run("kubectl", "exec", "-n", SYSTEM, deployment, "--", "python", "-c", code)


def until(check: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.5)


@contextmanager
def step(name: str, report: Manifest) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"e2e: {name} …", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    yield
    seconds = round(time.perf_counter() - begun, 1)
    report[f"{name} (seconds)"] = seconds
    print(f"e2e: {name}: {seconds} s", file=sys.stderr, flush=True)


def explain(error: AssertionError) -> None:
    """All that may tell why a step failed."""
    print(f"e2e: FAILED: {error}", file=sys.stderr)
    run("kubectl", "describe", "gvmjobs,pods", "-n", NAMESPACE, check=False, show=True)
    for namespace in (NAMESPACE, SYSTEM):
        for name in names("pods", namespace):
            run("kubectl", "logs", "--tail=60", "-n", namespace, name, check=False, show=True)


def kubectl(*args: str) -> str:
    """kubectl in the namespace."""
    return run("kubectl", "-n", NAMESPACE, *args)


def run(*command: str, stdin: str | None = None, check: bool = True, show: bool = False) -> str:
    """Run a command; an AssertionError with its words when it fails."""
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=180)
    if show:
        print(done.stdout, done.stderr, file=sys.stderr)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main()
