"""The operator among the faults of others: conflicts, refusals, a second operator, a dying namespace, a crowd."""

import copy
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml


def test_a_job_that_others_change_all_the_time_still_gets_its_status(bench, operator, wait) -> None:
    """Every status is written against the version that was read: each change in between is a 409."""
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            note = {"metadata": {"annotations": {"note": str(number)}}}
            bench.cluster.patch("GVMTrainingJob", bench.namespace, "a", note)
            time.sleep(0.02)

    bench.apply("a")
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        bench.run_all("a")
        bench.until_phase("a", "Running", within=40)
        bench.patch("a", {"runPolicy": {"suspend": True}})
        bench.until_phase("a", "Suspended", within=40)
    finally:
        stop.set()
        disturber.join()
    conflicts = [
        count
        for series, count in operator.metrics().items()
        if "api_requests_total" in series and 'code="409"' in series
    ]
    assert sum(conflicts) > 0, "the test did disturb"


def test_a_status_that_the_api_server_refuses_is_written_when_it_is_accepted_again(bench, operator, wait) -> None:
    crd = yaml.safe_load((Path(__file__).parents[2] / "crds/gvmtrainingjobs.yaml").read_text())
    broken = copy.deepcopy(crd)
    status = broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    status["properties"]["checkpoints"]["maxLength"] = 1

    def refused() -> float:
        found = operator.metrics()
        return sum(n for series, n in found.items() if "GVMTrainingJob/status" in series and 'code="422"' in series)

    try:
        bench.kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(broken))
        time.sleep(2)  # until the API server serves the new schema
        bench.apply("a")
        wait(lambda: refused() >= 2, what="two refusals: it is tried again")
        wait(lambda: bench.has_all_objects("a"), what="the children are made all the same")
    finally:
        bench.kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(crd))
    bench.until_phase("a", "Pending", within=60)
    assert operator.is_healthy()


def test_two_operators_at_once_make_one_job_of_it(bench, operator, allocator, wait, second_operator) -> None:
    bench.apply("a")
    wait(lambda: bench.has_all_objects("a"))
    bench.run_all("a")
    bench.until_phase("a", "Running", within=40)
    bench.end_learner("a", exit_code=1, message="once")
    wait(lambda: "Job/a-learner-1" in bench.children("a", "Job"), within=40)
    bench.run_pods("a", "learner")
    assert bench.until_phase("a", "Running", within=40)["restarts"] == 1
    assert bench.children("a", "Job") == ["Job/a-learner-0", "Job/a-learner-1"], "one restart, not two"
    bench.patch("a", {"runPolicy": {"suspend": True}})
    bench.until_phase("a", "Suspended", within=40)
    bench.kubectl("delete", "gvmtrainingjobs.gvm.rlhflow.dev", "a", "--timeout=20s")
    wait(lambda: not bench.children("a"), within=60)


def test_a_namespace_that_is_deleted_goes_and_the_operator_stays(bench, operator, wait) -> None:
    bench.apply("a")
    bench.run_all("a")
    bench.until_phase("a", "Running")
    bench.apply("b")
    bench.kubectl("delete", "namespace", bench.namespace, "--timeout=80s")
    wait(lambda: not any('job="a"' in series for series in operator.metrics()), what="its metrics are gone")
    assert operator.is_healthy()


def test_a_hundred_jobs_at_once_are_all_served(bench, operator, wait) -> None:
    names = [f"j{number:03}" for number in range(100)]
    bench.apply(*names)

    def num_learners() -> int:
        return len({job["metadata"]["labels"]["gvm.rlhflow.dev/job"] for job in bench.cluster.list("Job").items})

    wait(lambda: num_learners() == 100, within=120, what="a learner each")
    wait(
        lambda: all(j.get("status", {}).get("phase") == "Pending" for j in bench.cluster.list("GVMTrainingJob").items),
        within=60,
        what="a status each",
    )
    deployments = [d["metadata"]["name"] for d in bench.cluster.list("Deployment").items]
    assert sorted(deployments) == sorted(f"{name}-{role}" for name in names for role in ("allocator", "rollout"))


def test_an_operator_without_a_cluster_says_what_is_missing(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a" * 32)
    environment = {
        name: value for name, value in os.environ.items() if name != "KUBECONFIG" and not name.startswith("KUBERNETES_")
    }
    environment |= {"HOME": str(tmp_path), "GVM_OPERATOR_TOKEN_KEY_FILE": str(key)}
    done = subprocess.run(
        [sys.executable, "-m", "gvm_operator"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "set KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr
