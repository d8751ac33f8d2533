"""What the operator believes to be there.

saw         new · newer · the same again · older than what is known · of no job
lost        known · unknown · another of the same name by now · a job before its children
listed      what is missing is gone, unless it is newer than the list · what is newer is taken · what is older is not
belongs     children of this job, of an earlier one of its name, of nobody · pods · claims that were kept
kept        what the operator reads, and no more
"""

from typing import Any

import pytest

from gvm_operator.cache import Cache

KEY = ("default", "a")


def job(version: int = 1, uid: str = "u-1", name: str = "a", namespace: str = "default") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    return {"kind": "GVMTrainingJob", "metadata": metadata, "spec": {}}


def child(
    kind: str = "Deployment", name: str = "a-rollout", version: int = 2, owner: str | None = "u-1", **more: Any
) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}-{version}",
        "resourceVersion": str(version),
        "labels": {"gvm.rlhflow.dev/job": "a"},
    }
    if owner is not None:
        metadata["ownerReferences"] = [{"uid": owner}]
    return {"kind": kind, "metadata": metadata, **more}


def names(cache: Cache) -> list[str]:
    return sorted(each["metadata"]["name"] for each in cache.children(KEY))


@pytest.fixture
def cache() -> Cache:
    """Knows job a, version 1."""
    cache = Cache()
    cache.saw(job())
    return cache


def test_what_is_seen_belongs_to_the_job_that_its_label_names(cache: Cache) -> None:
    assert cache.saw(child()) == KEY
    assert cache.jobs() == [KEY]
    assert cache.job(KEY) == job()
    assert names(cache) == ["a-rollout"]
    assert cache.saw(job(name="a", namespace="other", uid="u-9")) == ("other", "a")
    assert cache.children(("other", "a")) == []


def test_an_object_of_no_job_is_none_of_ours(cache: Cache) -> None:
    stranger = {"kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default", "uid": "k"}}
    assert cache.saw(stranger) is None
    assert cache.lost(stranger) is None
    assert cache.listed("Service", [stranger], 5) == set()
    assert names(cache) == []


def test_news_that_are_older_than_what_is_known_are_no_news(cache: Cache) -> None:
    cache.saw(child(version=9, status={"readyReplicas": 1}))
    assert cache.saw(child(version=10, status={"readyReplicas": 2})) == KEY
    assert cache.saw(child(version=9, status={"readyReplicas": 1})) is None
    assert cache.children(KEY)[0]["status"] == {"readyReplicas": 2}
    cache.saw(job(version=30))
    assert cache.saw(job(version=4)) is None
    assert cache.job(KEY) == job(version=30)


def test_versions_are_numbers_and_no_texts(cache: Cache) -> None:
    cache.saw(child(version=99))
    assert cache.saw(child(version=100)) == KEY


def test_what_is_lost_is_gone(cache: Cache) -> None:
    cache.saw(child())
    assert cache.lost(child(version=7) | {"metadata": child()["metadata"]}) == KEY
    assert names(cache) == []
    assert cache.lost(child()) == KEY, "a look more does no harm"
    assert cache.lost(job()) == KEY
    assert cache.jobs() == []
    assert cache.job(KEY) is None


def test_the_end_of_an_object_is_not_that_of_its_successor(cache: Cache) -> None:
    old, new = child(version=5), child(version=8)
    cache.saw(new)
    assert cache.lost(old) is None
    assert names(cache) == ["a-rollout"]
    cache.saw(job(version=20, uid="u-2"))
    assert cache.lost(job(version=19, uid="u-1")) is None
    assert cache.jobs() == [KEY]


def test_children_outlast_their_job_until_they_are_lost_themselves(cache: Cache) -> None:
    pod = child("Pod", "a-learner-0-x", owner="job-uid")
    cache.saw(pod)
    cache.lost(job())
    cache.saw(job(version=20, uid="u-2"))
    assert names(cache) == ["a-learner-0-x"], "a new job's gang must not meet it"
    cache.lost(pod)
    assert names(cache) == []


def test_a_listing_finds_what_a_broken_watch_missed(cache: Cache) -> None:
    cache.saw(child(name="a-rollout", version=2))
    cache.saw(child(name="a-allocator", version=3))
    listed = [child(name="a-rollout", version=7, spec={"replicas": 4})]
    assert cache.listed("Deployment", listed, 10) == {KEY}
    assert names(cache) == ["a-rollout"]
    assert cache.children(KEY)[0]["spec"] == {"replicas": 4}


def test_a_listing_spares_what_came_after_it_and_other_kinds(cache: Cache) -> None:
    cache.saw(child(name="a-rollout", version=11))
    cache.saw(child("Service", "a-learner", version=3))
    assert cache.listed("Deployment", [], 10) == set()
    assert names(cache) == ["a-learner", "a-rollout"]
    assert cache.listed("Deployment", [], 11) == {KEY}
    assert names(cache) == ["a-learner"]


def test_a_listing_that_says_nothing_new_wakes_nobody(cache: Cache) -> None:
    cache.saw(child(version=5))
    assert cache.listed("Deployment", [child(version=5)], 9) == set()
    assert cache.listed("Deployment", [child(version=4)], 9) == set(), "older than what a watch told since"
    assert cache.listed("GVMTrainingJob", [job()], 9) == set()


def test_a_listing_of_jobs_finds_new_ones_and_those_that_are_gone(cache: Cache) -> None:
    assert cache.listed("GVMTrainingJob", [job(version=4, name="b", uid="u-b")], 10) == {KEY, ("default", "b")}
    assert cache.jobs() == [("default", "b")]


def test_a_job_that_was_made_anew_between_two_listings_is_the_new_one(cache: Cache) -> None:
    cache.saw(child(owner="u-1"))
    assert cache.listed("GVMTrainingJob", [job(version=9, uid="u-2")], 10) == {KEY}
    assert cache.job(KEY) == job(version=9, uid="u-2")
    assert names(cache) == [], "what belonged to the earlier one is not its"


def test_children_of_others_are_not_the_job_s(cache: Cache) -> None:
    cache.saw(child(name="of-an-earlier-one", owner="u-0"))
    cache.saw(child("ConfigMap", "made-by-hand", owner=None))
    cache.saw(child("PersistentVolumeClaim", "kept-by-an-earlier-one", owner=None))
    cache.saw(child("PersistentVolumeClaim", "another-s", owner="u-0"))
    cache.saw(child("Pod", "of-a-replica-set", owner="rs-7"))
    assert names(cache) == ["kept-by-an-earlier-one", "of-a-replica-set"]


def test_what_nobody_reads_is_not_kept(cache: Cache) -> None:
    big = child(
        "Pod",
        "a-learner-0-x",
        spec={"nodeName": "n1", "containers": [{"name": "learner", "env": [{"name": "A", "value": "x" * 1000}]}]},
        status={"phase": "Running"},
    )
    big["metadata"] |= {"managedFields": [{"manager": "kubelet"}], "annotations": {"x": "y"}}
    cache.saw(big)
    cache.saw(child("ConfigMap", "a-job", data={"job.yaml": "text"}))
    cache.saw(child("Deployment", spec={"replicas": 2, "template": {"spec": {}}}))
    pod, config, deployment = sorted(cache.children(KEY), key=lambda each: each["kind"], reverse=True)[:1] + [
        each for kind in ("ConfigMap", "Deployment") for each in cache.children(KEY) if each["kind"] == kind
    ]
    assert pod["spec"] == {"nodeName": "n1"}
    assert pod["status"] == {"phase": "Running"}
    assert pod["metadata"].keys() == {"name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences"}
    assert config["data"] == {"job.yaml": "text"}
    assert deployment["spec"] == {"replicas": 2}
    assert big["metadata"]["annotations"] == {"x": "y"}, "the giver's own object is left as it was"
