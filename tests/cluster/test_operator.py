"""The operator on a real API server, one life of a job after the other.

phases       Pending → Starting → Running → Succeeded | Failed | Suspended
fails        wrong image, unschedulable, refused by quota, learner's error up to backoffLimit, bad input, deadlines
user does    suspend, resume, scale, edit what is fixed, delete in every phase, wait for the TTL
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from gvm_api import yaml_format
from gvm_api.load import validate_job
from gvm_operator import manifests
from gvm_operator.network import Neighbours
from gvm_operator.site import Images, cluster_site


def test_a_job_goes_through_its_phases_to_the_end_and_frees_what_it_held(bench, operator, allocator, wait) -> None:
    bench.apply("a")
    wait(lambda: bench.has_all_objects("a"), what="all children")
    assert bench.exists("Secret", "a-allocator-token")
    assert bench.until_phase("a", "Pending")["rollout"]["summary"] == "0/2"
    bench.run_pods("a", "rollout", 2)
    assert bench.until_phase("a", "Starting")["allocator"]["summary"] == "0/1"
    bench.until_condition("a", "RolloutReady", status="True")
    allocator.start("a")
    allocator.report("a", phase="Starting", maxIterations=20)
    bench.run_pods("a", "allocator")
    bench.run_pods("a", "learner")
    bench.until_condition("a", "AllocatorReady", status="True")
    assert bench.phase("a") == "Starting", "the learner says that it is not there yet"
    allocator.report("a", phase="Running", iteration=3, maxIterations=20, step=12, accuracy=0.61, acceptRate=0.4)
    status = bench.until_phase("a", "Running")
    assert (status["iteration"], status["step"], status["accuracy"], status["acceptRate"]) == (3, 12, 0.61, 0.4)
    allocator.report("a", phase="Succeeded", iteration=20, maxIterations=20, step=80, accuracy=0.89)
    bench.end_learner("a", exit_code=0)
    status = bench.until_phase("a", "Succeeded")
    assert (status["iteration"], status["accuracy"]) == (20, 0.89), "the learner's last word"
    assert status["checkpoints"] == "persistentvolumeclaim/a-run: a/checkpoints"
    wait(lambda: not bench.children("a", "Deployment"), what="servers and allocator are gone")
    wait(lambda: bench.status("a")["rollout"]["summary"] == "0/0")
    assert bench.children("a", "Job") == ["Job/a-learner-0"]
    time.sleep(6)  # a full listing later
    assert bench.children("a", "Deployment") == [], "the end is sticky"
    reasons = [event["reason"] for event in bench.events("a")]
    assert {"Started", "Accepted", "RolloutReady", "AllocatorReady", "LearnerRunning", "Complete"} <= set(reasons)
    assert all(event["count"] == 1 for event in bench.events("a")), "each is said once"


def test_the_children_are_those_that_gvm_render_prints(bench, operator, wait) -> None:
    bench.apply("a")
    wait(lambda: bench.has_all_objects("a"))
    given = bench.job("a")
    spec = validate_job({key: given[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    rendered = manifests.children(spec, cluster_site(spec, Images()), token="", neighbours=Neighbours(operator=""))
    for child in rendered:
        if child["kind"] == "Secret":
            continue
        found = bench.cluster.get(child["kind"], bench.namespace, child["metadata"]["name"])
        owner = found["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("GVMTrainingJob", given["metadata"]["uid"], True)
        assert_within(child, found, child["kind"])


def assert_within(wanted: Any, found: Any, path: str) -> None:
    """All that is wanted is there; the API server adds defaults, and an old one drops what it does not know."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            if key == "completionMode" and key not in found:
                continue  # before Kubernetes 1.21
            assert key in found or not value, f"{path}.{key}"
            assert_within(value, found.get(key, value), f"{path}.{key}")
    elif isinstance(wanted, list):
        assert len(wanted) == len(found), path
        for index, value in enumerate(wanted):
            assert_within(value, found[index], f"{path}[{index}]")
    else:
        assert str(wanted) == str(found), path


def test_an_invalid_job_says_so_and_makes_nothing_until_it_is_mended(bench, operator, wait) -> None:
    allocation = {"policy": "gvm_paper", "schedule": "two_stage", "samplesPerPrompt": 2, "pilotSamples": 4}
    spec = {"allocation": allocation}
    if bench.is_refused("a", spec, naming="samplesPerPrompt"):  # from Kubernetes 1.25 on
        return
    accepted = bench.until_condition("a", "Accepted", status="False")
    assert accepted["reason"] == "InvalidSpec"
    assert "spec.allocation" in accepted["message"]
    assert "samplesPerPrompt" in accepted["message"]
    assert bench.children("a") == []
    bench.patch("a", {"allocation": {"samplesPerPrompt": 8}})
    bench.until_condition("a", "Accepted", status="True")
    wait(lambda: bench.children("a", "Job") == ["Job/a-learner-0"])


def test_a_job_in_the_operator_s_own_namespace_is_refused(bench, operator_within) -> None:
    bench.apply("a")
    accepted = bench.until_condition("a", "Accepted", status="False")
    assert accepted["reason"] == "OperatorNamespace"
    assert f"namespace {bench.namespace} is the operator's own" in accepted["message"]
    assert bench.children("a") == []


def test_a_wrong_image_is_named_in_the_status(bench, operator) -> None:
    from_kubelet = {"reason": "ErrImagePull", "message": 'pull access denied for "nowhere/rollout"'}
    bench.apply("a", spec={"rollout": {"replicas": 1, "image": "nowhere/rollout:1"}})
    pod = bench.wait_for_pods("a", "rollout", 1)[0]
    container = {"name": "vllm", "image": "nowhere/rollout:1", "imageID": "", "ready": False, "restartCount": 0}
    bench.set_pod(pod, phase="Pending", containerStatuses=[{**container, "state": {"waiting": from_kubelet}}])
    condition = bench.until_condition("a", "RolloutReady", reason="ImagePullBackOff", within=30)
    assert "nowhere/rollout:1" in condition["message"]
    assert "pull access denied" in condition["message"]
    back_off = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    for _ in range(3):  # the kubelet alternates
        for waiting in (back_off, from_kubelet):
            bench.set_pod(pod, phase="Pending", containerStatuses=[{**container, "state": {"waiting": waiting}}])
            time.sleep(0.3)
    assert bench.condition("a", "RolloutReady") == condition, "it does not flicker"
    assert bench.status("a")["message"] == condition["message"]
    assert [e["count"] for e in bench.events("a") if e["reason"] == "ImagePullBackOff"] == [1]


def test_pods_that_fit_no_node_are_said_to_be_unschedulable(bench, operator) -> None:
    bench.apply("a")
    condition = bench.until_condition("a", "LearnerRunning", reason="Unschedulable")
    assert "nodes" in condition["message"]
    assert bench.phase("a") == "Pending"


def test_what_a_quota_refuses_is_said_and_done_when_there_is_room(bench, operator, wait) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"services": "2"}},
    }
    bench.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(quota))
    wait(lambda: "used" in bench.kubectl("get", "quota", "q", "-o", "yaml"))
    bench.apply("a")
    condition = bench.until_condition("a", "Accepted", status="False")
    assert condition["reason"] == "Refused"
    assert "exceeded quota" in condition["message"]
    bench.kubectl("delete", "quota", "q")
    bench.until_condition("a", "Accepted", status="True", within=60)
    wait(lambda: bench.has_all_objects("a"))


def test_pods_that_a_quota_refuses_are_named_in_the_status(bench, operator, wait) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}
    bench.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(quota))
    wait(lambda: "used" in bench.kubectl("get", "quota", "q", "-o", "yaml"))
    bench.apply("a")
    condition = bench.until_condition("a", "RolloutReady", reason="FailedCreate")
    assert "exceeded quota" in condition["message"]
    assert bench.phase("a") == "Pending"


def test_a_learner_that_fails_is_restarted_as_a_gang_up_to_the_limit(bench, operator, wait) -> None:
    bench.apply("a", spec={"runPolicy": {"backoffLimit": 1}})
    bench.run_all("a")
    bench.until_phase("a", "Running")
    bench.end_learner("a", exit_code=9, message="NCCL timeout on rank 3")
    condition = bench.until_condition("a", "LearnerRunning", status="False")
    wait(lambda: "NCCL timeout on rank 3" in bench.condition("a", "LearnerRunning").get("message", ""))
    assert bench.status("a").get("restarts", 0) == 0, "it waits before it tries again"
    wait(lambda: "Job/a-learner-1" in bench.children("a", "Job"), within=30, what="the second attempt")
    bench.run_pods("a", "learner")
    assert bench.until_phase("a", "Running")["restarts"] == 1
    assert len(bench.pods("a", "learner")) == 2, "the failed one stays for whoever debugs"
    bench.end_learner("a", exit_code=9, message="NCCL timeout on rank 3")
    status = bench.until_phase("a", "Failed", within=30)
    failed = bench.condition("a", "Failed")
    assert failed["reason"] == "BackoffLimitExceeded"
    assert "NCCL timeout on rank 3" in failed["message"]
    assert status["restarts"] == 1
    wait(lambda: not bench.children("a", "Deployment"), what="GPUs are freed")
    assert bench.children("a", "Job") == ["Job/a-learner-0", "Job/a-learner-1"]
    assert len(bench.pods("a", "learner")) == 2
    assert condition["observedGeneration"] == 1


def test_a_gang_that_starts_again_runs_by_its_own_word(bench, operator, allocator, wait) -> None:
    allocator.start("a")
    bench.apply("a")
    bench.run_all("a")
    (first,) = bench.pods("a", "learner")
    assert first["metadata"]["labels"]["gvm.rlhflow.dev/job-uid"] == bench.job("a")["metadata"]["uid"]
    allocator.report("a", phase="Running", learnerId=first["metadata"]["uid"], iteration=1, maxIterations=8)
    assert bench.until_phase("a", "Running")["iteration"] == 1
    bench.end_learner("a", exit_code=9)
    wait(lambda: "Job/a-learner-1" in bench.children("a", "Job"), within=30, what="the second attempt")
    bench.run_pods("a", "learner")
    wait(lambda: bench.status("a")["learner"]["summary"] == "1/1", what="its pod is counted")
    time.sleep(2)  # some readings of the old word later
    status = bench.status("a")
    assert (status["phase"], status["iteration"], status["restarts"]) == ("Starting", 1, 1)
    (second,) = bench.live_pods("a", "learner")
    allocator.report("a", phase="Running", learnerId=second["metadata"]["uid"], iteration=2, maxIterations=8)
    assert bench.until_phase("a", "Running")["iteration"] == 2
    said = [event["message"] for event in bench.events("a") if event["reason"] == "LearnerRunning"]
    assert sorted(said) == ["iteration 1 of 8", "iteration 2 of 8"], "each by the learner that does it"


def test_a_pod_that_is_still_going_is_no_trouble_of_the_job_that_was_resumed(bench, operator, wait) -> None:
    bench.apply("a")
    bench.run_all("a")
    bench.until_phase("a", "Running")
    (old,) = bench.pods("a", "learner")
    name = old["metadata"]["name"]
    bench.hold(name)
    bench.patch("a", {"runPolicy": {"suspend": True}})
    wait(lambda: bench.children("a", "Job", "Deployment") == [], what="the pause")
    bench.end_learner("a", exit_code=137)
    bench.until_phase("a", "Suspended")
    bench.patch("a", {"runPolicy": {"suspend": False}})
    wait(lambda: len(bench.pods("a", "learner")) == 2, what="the new pod beside the old one")
    bench.run_pods("a", "learner")
    wait(lambda: bench.status("a")["learner"]["summary"] == "1/1", what="the new pod is counted")
    assert bench.status("a")["learner"]["failed"] == 0
    condition = bench.until_condition("a", "LearnerRunning", status="False", reason="Starting")
    assert condition["message"] == "the learner waits for servers and allocator"
    bench.release(name)


def test_bad_input_fails_the_job_without_a_restart(bench, operator) -> None:
    bench.apply("a")
    bench.run_all("a")
    bench.until_phase("a", "Running")
    bench.end_learner("a", exit_code=1, message="InvalidInput: spec.dataset.path: no such file")
    status = bench.until_phase("a", "Failed", within=30)
    assert bench.condition("a", "Failed")["reason"] == "InvalidInput"
    assert status["message"] == "spec.dataset.path: no such file"
    assert bench.children("a", "Job") == ["Job/a-learner-0"]


def test_a_suspended_job_frees_all_its_pods_and_resumes(bench, operator, wait) -> None:
    bench.apply("a")
    bench.run_all("a")
    bench.until_phase("a", "Running")
    bench.patch("a", {"runPolicy": {"suspend": True}})
    bench.until_phase("a", "Suspended")
    assert bench.children("a", "Pod", "Deployment", "Job") == []
    assert bench.condition("a", "Suspended")["status"] == "True"
    assert "PersistentVolumeClaim/a-run" in bench.children("a"), "the checkpoints stay"
    bench.patch("a", {"runPolicy": {"suspend": False}})
    bench.run_all("a")
    status = bench.until_phase("a", "Running")
    assert bench.condition("a", "Suspended")["status"] == "False"
    assert status["restarts"] == 0, "a pause is no failure"
    assert bench.children("a", "Job") == ["Job/a-learner-0"]


def test_a_job_that_is_suspended_from_the_start_makes_no_pods(bench, operator, wait) -> None:
    bench.apply("a", spec={"runPolicy": {"suspend": True}})
    bench.until_phase("a", "Suspended")
    assert bench.children("a", "Pod", "Deployment", "Job") == []
    bench.patch("a", {"runPolicy": {"suspend": False}})
    wait(lambda: bench.has_all_objects("a"))


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"activeDeadlineSeconds": 3}, "DeadlineExceeded"),
        ({"startupDeadlineSeconds": 3}, "StartupDeadlineExceeded"),
    ],
)
def test_a_deadline_that_passes_fails_the_job_and_frees_its_pods(bench, operator, wait, policy, reason) -> None:
    bench.apply("a", spec={"runPolicy": policy})
    bench.until_phase("a", "Failed", within=30)
    condition = bench.condition("a", "Failed")
    assert condition["reason"] == reason
    assert f"runPolicy.{next(iter(policy))} of 3 passed" in condition["message"]
    wait(lambda: not bench.children("a", "Pod", "Deployment", "Job"), what="all pods are gone")


def test_the_time_to_live_deletes_the_job_and_all_that_it_made(bench, operator, wait) -> None:
    bench.apply("a", spec={"runPolicy": {"ttlSecondsAfterFinished": 3}})
    bench.run_all("a")
    bench.until_phase("a", "Running")
    bench.end_learner("a", exit_code=1, message="InvalidInput: no")
    bench.until_phase("a", "Failed", within=30)
    wait(lambda: not bench.exists("GVMTrainingJob", "a"), within=30)
    wait(lambda: not bench.children("a"), within=60, what="nothing is left")
    wait(lambda: not bench.exists("Secret", "a-allocator-token"), within=60)


def test_servers_are_scaled_while_the_job_runs_and_nothing_restarts(bench, operator, wait) -> None:
    bench.apply("a")
    bench.run_all("a")
    bench.until_phase("a", "Running")
    before = {pod["metadata"]["uid"] for role in ("learner", "rollout") for pod in bench.pods("a", role)}
    bench.patch("a", {"rollout": {"replicas": 4}})
    bench.run_pods("a", "rollout", 4)
    wait(lambda: bench.status("a")["rollout"]["summary"] == "4/4")
    assert before <= {pod["metadata"]["uid"] for role in ("learner", "rollout") for pod in bench.pods("a", role)}
    bench.patch("a", {"rollout": {"replicas": 1}})
    wait(lambda: bench.status("a")["rollout"]["summary"] == "1/1")
    bench.kubectl("scale", "deployment/a-rollout", "--replicas=3")
    wait(
        lambda: bench.cluster.get("Deployment", bench.namespace, "a-rollout")["spec"]["replicas"] == 1,
        what="the spec is what counts",
    )


def test_what_is_fixed_stays_as_it_was_and_the_change_is_named(bench, operator, wait) -> None:
    bench.apply("a")
    bench.run_all("a")
    bench.until_phase("a", "Running")
    changed = {"learner": {"learningRate": 0.5}}
    if bench.is_refused("a", changed, naming="learner"):  # from Kubernetes 1.25 on
        return
    condition = bench.until_condition("a", "Accepted", status="False")
    assert condition["reason"] == "ImmutableField"
    assert "spec.learner.learningRate" in condition["message"]
    assert bench.phase("a") == "Running"
    held = bench.cluster.get("ConfigMap", bench.namespace, "a-job")["data"]["job.yaml"]
    assert yaml_format.load_all(held)[0]["spec"]["learner"]["learningRate"] == 1e-6
    bench.patch("a", {"learner": {"learningRate": 1e-6}})
    bench.until_condition("a", "Accepted", status="True")


def test_a_child_that_somebody_deletes_comes_back(bench, operator, wait) -> None:
    bench.apply("a")
    wait(lambda: bench.has_all_objects("a"))
    for child in ("deployment/a-rollout", "service/a-learner", "networkpolicy/a-rollout", "job/a-learner-0"):
        bench.kubectl("delete", child)
    wait(lambda: bench.has_all_objects("a"), what="all children again")


def to_pending(bench, wait) -> None:
    bench.until_phase("a", "Pending")


def to_starting(bench, wait) -> None:
    bench.run_pods("a", "rollout", 2)
    bench.until_phase("a", "Starting")


def to_running(bench, wait) -> None:
    bench.run_all("a")
    bench.until_phase("a", "Running")


def to_restarting(bench, wait) -> None:
    to_running(bench, wait)
    bench.end_learner("a", exit_code=1)
    bench.until_condition("a", "LearnerRunning", status="False")


def to_suspended(bench, wait) -> None:
    bench.patch("a", {"runPolicy": {"suspend": True}})
    bench.until_phase("a", "Suspended")


def to_failed(bench, wait) -> None:
    to_running(bench, wait)
    bench.end_learner("a", exit_code=1, message="InvalidInput: no")
    bench.until_phase("a", "Failed", within=30)


PHASES = [to_pending, to_starting, to_running, to_restarting, to_suspended, to_failed]
ids = [step.__name__.removeprefix("to_") for step in PHASES]


@pytest.mark.parametrize("reach", PHASES, ids=ids)
def test_a_job_deleted_in_any_phase_leaves_nothing(bench, operator, wait, reach: Callable[..., None]) -> None:
    bench.apply("a")
    reach(bench, wait)
    bench.kubectl("delete", "gvmtrainingjobs.gvm.rlhflow.dev", "a", "--timeout=20s")
    wait(lambda: not bench.children("a"), within=60, what="nothing is left")
    wait(lambda: not bench.exists("Secret", "a-allocator-token"), within=60)
    wait(lambda: not any('job="a"' in series for series in operator.metrics()), what="its metrics are gone")


@pytest.mark.parametrize("reach", PHASES, ids=ids)
def test_an_operator_killed_in_any_phase_goes_on_where_it_was(bench, operator, wait, reach) -> None:
    bench.apply("a")
    reach(bench, wait)
    operator.kill()
    before = bench.status("a")
    names = bench.objects("a")
    operator.start()
    time.sleep(2)
    after = bench.status("a")
    for field in ("startTime", "restarts", "completionTime"):
        assert after.get(field) == before.get(field), field
    if reach is to_restarting:
        wait(lambda: "Job/a-learner-1" in bench.children("a", "Job"), within=40)
        assert bench.children("a", "Job") == ["Job/a-learner-0", "Job/a-learner-1"]
        return
    assert bench.phase("a") == before["phase"]
    assert bench.objects("a") == names
    if reach is to_running:  # what happened meanwhile is found
        operator.kill()
        bench.end_learner("a", exit_code=1, message="InvalidInput: no")
        operator.start()
        bench.until_phase("a", "Failed", within=30)


def test_a_job_deleted_while_no_operator_runs_leaves_nothing(bench, operator, wait) -> None:
    bench.apply("a")
    to_running(bench, wait)
    operator.kill()
    bench.kubectl("delete", "gvmtrainingjobs.gvm.rlhflow.dev", "a", "--timeout=20s")
    wait(lambda: not bench.children("a"), within=60, what="nothing is left")
    operator.start()


def test_a_job_made_anew_under_the_same_name_starts_from_nothing(bench, operator, wait) -> None:
    bench.apply("a")
    to_failed(bench, wait)
    first = bench.job("a")["metadata"]["uid"]
    bench.kubectl("delete", "gvmtrainingjobs.gvm.rlhflow.dev", "a", "--timeout=20s")
    bench.apply("a")
    assert bench.job("a")["metadata"]["uid"] != first

    def all_are_new() -> bool:
        kinds = ("ConfigMap", "Deployment", "Job", "NetworkPolicy", "PersistentVolumeClaim", "Service")
        found = [item for kind in kinds for item in bench.cluster.list(kind).items]
        owners = {item["metadata"]["ownerReferences"][0]["uid"] for item in found}
        return bench.has_all_objects("a") and owners == {bench.job("a")["metadata"]["uid"]}

    wait(all_are_new, within=60, what="children of the new job")
    to_running(bench, wait)
