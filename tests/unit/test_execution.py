"""Actions carried out on a cluster, and the status as it is written.

create    made · there already and ours · of another job · made by hand · a claim that was kept · a Secret · a kind that
          the cluster does not serve
patch     the change · of what is gone
delete    by uid · of what is gone
errors    of the user's side are told and do not hold up the rest · of the server's side break off
status    what is None or empty is removed
"""

import copy
from typing import Any

import pytest

from gvm_api.status import Condition, JobStatus
from gvm_operator.actions import Create, Delete, DeleteJob, Patch, describe
from gvm_operator.cluster import ClusterError
from gvm_operator.execution import Done, Executor, status_patch


def service(name: str = "a-rollout", owner: str | None = "", kind: str = "Service") -> dict[str, Any]:
    owners = {"ownerReferences": [{"uid": owner}]} if owner is not None else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default", **owners}, "spec": {}}


@pytest.fixture
def job(cluster: Any, make_job: Any) -> dict[str, Any]:
    """Job a, as it is in the cluster."""
    cluster.apply(make_job())
    found: dict[str, Any] = copy.deepcopy(cluster.job())
    return found


def perform(cluster: Any, job: Any, *actions: Any, **options: Any) -> Done:
    return Executor(cluster, job).perform(actions, **options)


def failing(code: int, reason: str, verb: str, kind: str) -> Any:
    def fault(its_verb: str, its_kind: str, name: str) -> None:
        if (its_verb, its_kind) == (verb, kind):
            raise ClusterError(code, reason, f"{kind} {name}: {reason}")

    return fault


def test_what_is_made_is_given_back_as_the_server_has_it(cluster, job) -> None:
    done = perform(cluster, job, Create(manifest=service(owner=job["metadata"]["uid"])))
    assert (done.refusals, [each["kind"] for each in done.seen]) == ([], ["Service"])
    assert done.seen[0]["metadata"]["resourceVersion"] == "2"
    assert cluster.names("Service") == ["a-rollout"]


def test_what_another_operator_made_first_is_taken_as_it_is(cluster, job) -> None:
    manifest = service(owner=job["metadata"]["uid"])
    cluster.create({**manifest, "spec": {"clusterIP": "10.0.0.7"}})
    done = perform(cluster, job, Create(manifest=manifest))
    assert done.refusals == []
    assert done.seen[0]["spec"] == {"clusterIP": "10.0.0.7"}


@pytest.mark.parametrize("owner", [None, "uid-of-another"])
def test_what_is_another_s_is_left_alone_and_told(cluster, job, owner: str | None) -> None:
    cluster.create({**service(owner=owner), "spec": {"theirs": True}})
    done = perform(cluster, job, Create(manifest=service(owner=job["metadata"]["uid"])))
    assert done.seen == []
    (refusal,) = done.refusals
    assert refusal.message.startswith("Service a-rollout: exists and is not this job's")
    assert cluster.get("Service", "default", "a-rollout")["spec"] == {"theirs": True}


def test_a_claim_that_an_earlier_job_left_is_used_and_that_of_another_job_is_not(cluster, job) -> None:
    kind = "PersistentVolumeClaim"
    cluster.create(service("a-run", owner=None, kind=kind))
    cluster.create(service("b-run", owner="uid-of-b", kind=kind))
    done = perform(
        cluster, job, Create(manifest=service("a-run", kind=kind)), Create(manifest=service("b-run", kind=kind))
    )
    assert [each["metadata"]["name"] for each in done.seen] == ["a-run"]
    assert [describe(each.action) for each in done.refusals] == ["PersistentVolumeClaim b-run"]


def test_a_secret_is_neither_read_nor_given_back(cluster, job) -> None:
    verbs = []
    cluster.fault = lambda verb, *_: verbs.append(verb)
    for _ in range(2):
        assert perform(cluster, job, Create(manifest=service(kind="Secret"))) == Done()
    assert verbs == ["create", "create"]
    assert cluster.names("Secret") == ["a-rollout"]


def test_a_kind_that_the_cluster_does_not_serve_is_done_without(cluster, job) -> None:
    budget = Create(manifest=service(kind="PodDisruptionBudget"))
    done = perform(cluster, job, budget, Create(manifest=service()), unknown_kinds={"PodDisruptionBudget"})
    assert done.refusals == []
    assert (cluster.names("PodDisruptionBudget"), cluster.names("Service")) == ([], ["a-rollout"])


def test_a_change_is_a_merge_and_its_outcome_is_given_back(cluster, job) -> None:
    cluster.create({**service(kind="Deployment"), "spec": {"replicas": 1, "paused": False}})
    done = perform(cluster, job, Patch(kind="Deployment", name="a-rollout", change={"spec": {"replicas": 3}}))
    assert done.seen[0]["spec"] == {"replicas": 3, "paused": False}
    assert done.seen[0]["kind"] == "Deployment"


def test_a_change_of_what_somebody_deleted_meanwhile_is_no_refusal(cluster, job) -> None:
    done = perform(cluster, job, Patch(kind="Deployment", name="a-rollout", change={"spec": {"replicas": 3}}))
    assert done == Done()


def test_what_is_deleted_is_gone_and_what_came_after_it_stays(cluster, job) -> None:
    uid = cluster.create(service())["metadata"]["uid"]
    perform(cluster, job, Delete(kind="Service", name="a-rollout", uid="uid-of-an-earlier-one"))
    assert cluster.names("Service") == ["a-rollout"]
    perform(cluster, job, Delete(kind="Service", name="a-rollout", uid=uid))
    assert cluster.names("Service") == []
    assert perform(cluster, job, Delete(kind="Service", name="a-rollout", uid=uid)) == Done()


def test_the_job_itself_is_deleted_by_its_uid(cluster, job) -> None:
    perform(cluster, job, DeleteJob(uid="uid-of-an-earlier-one"))
    assert cluster.names("GVMTrainingJob") == ["a"]
    perform(cluster, job, DeleteJob(uid=job["metadata"]["uid"]))
    assert cluster.names("GVMTrainingJob") == []


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (422, "Invalid"), (400, "BadRequest")])
def test_what_the_server_refuses_is_told_and_does_not_hold_up_what_follows(
    cluster, job, code: int, reason: str
) -> None:
    cluster.fault = failing(code, reason, "create", "Deployment")
    actions = [Create(manifest=service(kind=kind)) for kind in ("Deployment", "Service")]
    done = perform(cluster, job, *actions)
    assert [each.message for each in done.refusals] == [f"Deployment a-rollout: Deployment a-rollout: {reason}"]
    assert cluster.names("Service") == ["a-rollout"]


@pytest.mark.parametrize("code", [0, 429, 500, 503])
def test_a_server_that_fails_or_has_no_time_breaks_off_the_look(cluster, job, code: int) -> None:
    cluster.fault = failing(code, "Broken", "create", "Deployment")
    actions = [Create(manifest=service(kind=kind)) for kind in ("ConfigMap", "Deployment", "Service")]
    with pytest.raises(ClusterError):
        perform(cluster, job, *actions)
    assert (cluster.names("ConfigMap"), cluster.names("Service")) == (["a-rollout"], [])


def test_a_status_removes_what_is_none_or_empty_and_replaces_conditions_as_a_whole() -> None:
    condition = Condition(
        type="Accepted", status="True", reason="Accepted", last_transition_time="2026-03-02T12:00:00Z"
    )
    patch = status_patch(JobStatus(conditions=(condition,), restarts=2, accuracy=0.5))
    assert patch["completionTime"] is patch["message"] is None
    assert (patch["restarts"], patch["accuracy"]) == (2, 0.5)
    assert patch["conditions"] == [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "lastTransitionTime": "2026-03-02T12:00:00Z",
        }
    ], "an old API server takes an empty text in a list for null"
    assert patch["rollout"] == {"desired": 0, "ready": 0, "failed": 0}
