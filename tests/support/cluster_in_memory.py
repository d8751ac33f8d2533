"""A cluster in memory, for tests: it stores objects, and acts as Kubernetes' controllers and a kubelet do.

So a job can live its whole life within milliseconds, under an operator that looks at it when it is told to.
"""

import copy
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from gvm_api.spec import API_VERSION, KIND
from gvm_api.status import TERMINAL
from gvm_api.wire import Progress
from gvm_operator.cache import Cache
from gvm_operator.cluster import CHILD_KINDS, ClusterError, Listing
from gvm_operator.execution import Executor, status_patch
from gvm_operator.labels import ROLE_LABEL
from gvm_operator.network import Neighbours
from gvm_operator.observed import Observed, is_active, is_finished, stamp
from gvm_operator.reconcile import Decision, Operator, desired, read_status
from gvm_operator.site import Images

Manifest = dict[str, Any]
START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""When every life in memory begins."""


def new_job(name: str = "a", **spec: Any) -> Manifest:
    """A GVMTrainingJob as a user writes it; sections of the spec by their names, e.g. runPolicy={...}."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"path": "m"}, "dataset": {"path": "d.jsonl"}, **spec},
    }


def new_pod(
    role: str = "learner",
    name: str = "",
    *,
    phase: str = "Running",
    attempt: int | None = None,
    waiting: Manifest | None = None,
    terminated: Manifest | None = None,
    last: Manifest | None = None,
    **status: Any,
) -> Manifest:
    """A pod of job a with one container; a Running one that neither waits nor ended is ready."""
    labels = {"gvm.rlhflow.dev/job": "a", "app.kubernetes.io/component": role}
    if role == "learner":
        labels["gvm.rlhflow.dev/attempt"] = str(attempt or 0)
    state = {"waiting": waiting} if waiting else {"terminated": terminated} if terminated else {"running": {}}
    container = {"name": role, "image": f"{role}:1", "state": state, "lastState": {"terminated": last} if last else {}}
    is_up = phase == "Running" and not waiting and not terminated
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name or f"a-{role}-x", "namespace": "default", "uid": f"uid-{name}", "labels": labels},
        "spec": {},
        "status": {
            "phase": phase,
            "containerStatuses": [container] if phase != "Pending" or waiting else [],
            "conditions": [{"type": "Ready", "status": "True" if is_up else "False"}],
            **status,
        },
    }


_Lines = list[str]
_Manifests = list[Manifest]  # within the class, list is a method


class FakeCluster:
    """A cluster in memory, and its clock.

    The API server with the methods of the operator's `Cluster`: versions, uids, generations, preconditions, garbage
    collection. The controllers of Deployments and Jobs and one kubelet, which act when `step` is called. `fault` is
    asked before every request, and may raise or change what is there.
    """

    def __init__(self) -> None:
        self.now = START
        self.objects: dict[tuple[str, str, str], Manifest] = {}
        self.log: _Lines = []
        """Every request that changed something, e.g. create Deployment a-rollout."""
        self.fault: Callable[[str, str, str], None] = _no_fault
        self.stuck: dict[str, Manifest] = {}
        """The pod status of roles whose pods do not come up."""
        self.events: _Manifests = []
        self._count = 0
        self._lock = threading.RLock()  # a controller's workers come from several threads

    # What the operator calls.

    def list(self, kind: str) -> Listing:
        self.fault("list", kind, "")
        with self._lock:
            items = [copy.deepcopy(found) for (its, *_), found in self.objects.items() if its == kind]
            return Listing(items=items, resource_version=self._count)

    def get(self, kind: str, namespace: str, name: str) -> Manifest:
        self.fault("get", kind, name)
        with self._lock:
            return copy.deepcopy(self._at(kind, namespace, name))

    def create(self, manifest: Manifest) -> Manifest:
        kind, metadata = manifest["kind"], manifest["metadata"]
        self.fault("create", kind, metadata["name"])
        with self._lock:
            key = (kind, metadata["namespace"], metadata["name"])
            if key in self.objects:
                raise ClusterError(409, "AlreadyExists", f"{kind} {metadata['name']} already exists")
            self._log("create", kind, metadata["name"])
            made = _plain(manifest)
            made["metadata"] |= {"uid": f"uid-{self._count + 1}", "creationTimestamp": stamp(self.now), "generation": 1}
            self.objects[key] = made
            self._touch(made)
            return copy.deepcopy(made)

    def patch(self, kind: str, namespace: str, name: str, change: Manifest) -> Manifest:
        self.fault("patch", kind, name)
        with self._lock:
            found = self._at(kind, namespace, name)
            self._log("patch", kind, name)
            self._change(found, change)
            return copy.deepcopy(found)

    def patch_status(self, job: Manifest, status: Manifest) -> Manifest:
        metadata = job["metadata"]
        self.fault("patch", f"{KIND}/status", metadata["name"])
        with self._lock:
            found = self._at(KIND, metadata["namespace"], metadata["name"])
            if found["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
                raise ClusterError(409, "Conflict", "the object has been modified")
            self._change(found, {"status": _plain(status)})
            return copy.deepcopy(found)

    def delete(self, kind: str, namespace: str, name: str, *, uid: str = "") -> None:
        self.fault("delete", kind, name)
        with self._lock:
            found = self.objects.get((kind, namespace, name))
            if found is None or (uid and found["metadata"]["uid"] != uid):
                return
            self._log("delete", kind, name)
            self._remove(found)
            self._collect_garbage()

    def record(self, event: Manifest) -> None:
        self.fault("create", "Event", event["metadata"]["name"])
        with self._lock:
            self.events.append(_plain(event))

    # What a user does.

    def apply(self, job: Manifest) -> None:
        """Create the job, or give it another spec."""
        with self._lock:
            known = self.objects.get((KIND, "default", job["metadata"]["name"]))
            if known is None:
                self.create(job)
            elif known["spec"] != job["spec"]:
                known["spec"] = _plain(job["spec"])
                known["metadata"]["generation"] += 1
                self._touch(known)

    def edit(self, section: str, name: str = "a", **fields: Any) -> None:
        """Change fields of one section of a job's spec; None removes one."""
        job = copy.deepcopy(self.job(name))
        merged = {**job["spec"].get(section, {}), **fields}
        job["spec"][section] = {key: value for key, value in merged.items() if value is not None}
        self.apply(job)

    # What is there.

    def job(self, name: str = "a") -> Manifest:
        return self._at(KIND, "default", name)

    def status(self, name: str = "a") -> Manifest:
        return self.job(name).get("status") or {}

    def condition(self, kind: str, name: str = "a") -> Manifest:
        return next((c for c in self.status(name).get("conditions", ()) if c["type"] == kind), {})

    def names(self, *kinds: str) -> _Lines:
        return sorted(name for kind, _, name in self.objects if kind in kinds)

    def pods(self, role: str = "") -> _Manifests:
        with self._lock:
            pods = [found for (kind, *_), found in self.objects.items() if kind == "Pod"]
        return [pod for pod in pods if role in ("", pod["metadata"]["labels"][ROLE_LABEL])]

    def active_pods(self, role: str = "") -> _Manifests:
        return [pod for pod in self.pods(role) if is_active(pod)]

    # What the rest of a cluster does.

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def step(self, num_steps: int = 1) -> None:
        """Controllers and kubelet each act once, and a second passes."""
        for _ in range(num_steps):
            with self._lock:
                self._run_kubelet()
                for (kind, *_), found in tuple(self.objects.items()):
                    if kind == "Deployment":
                        self._run_deployment(found)
                    elif kind == "Job":
                        self._run_job(found)
                self._collect_garbage()
            self.wait(1)

    def end(self, role: str, exit_code: int = 0, *, message: str = "", reason: str = "") -> None:
        """The containers of a role's running pods end."""
        for pod in [pod for pod in self.active_pods(role) if pod["status"]["phase"] == "Running"]:
            end = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed")}
            end |= {"message": message, "finishedAt": stamp(self.now)}
            ended = new_pod(role, phase="Failed" if exit_code else "Succeeded", terminated=end)
            self.set_status(pod, ended["status"])

    def _run_kubelet(self) -> None:
        for pod in self.pods():
            role = pod["metadata"]["labels"][ROLE_LABEL]
            if "deletionTimestamp" in pod["metadata"]:
                self.objects.pop(_key(pod), None)
                self._count += 1
            elif is_active(pod):
                self.set_status(pod, self.stuck.get(role) or new_pod(role)["status"])

    def _run_deployment(self, deployment: Manifest) -> None:
        pods = [pod for pod in self._owned(deployment) if is_active(pod) and not _is_going(pod)]
        for _ in range(deployment["spec"]["replicas"] - len(pods)):
            self._add_pod(deployment)
        for pod in pods[deployment["spec"]["replicas"] :]:
            self._remove(pod)

    def _run_job(self, job: Manifest) -> None:
        if is_finished(job):
            return
        size, pods = job["spec"]["completions"], self._owned(job)
        phases = [pod["status"]["phase"] for pod in pods if not _is_going(pod)]
        if not job.get("status"):
            for _ in range(size):
                self._add_pod(job)
            self.set_status(job, {"active": size})
        elif "Failed" in phases or len(phases) < size:
            self._finish(job, "Failed", "BackoffLimitExceeded")
            for pod in pods:
                if is_active(pod):
                    self._remove(pod)
        elif phases == ["Succeeded"] * size:
            self._finish(job, "Complete", "CompletionsReached")

    def _finish(self, job: Manifest, kind: str, reason: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": stamp(self.now)}
        self.set_status(job, {"conditions": [{**condition, "message": "Job has reached the specified backoff limit"}]})

    def _add_pod(self, owner: Manifest) -> None:
        template, name = owner["spec"]["template"], owner["metadata"]["name"]
        metadata = {"name": f"{name}-{self._count}", "namespace": owner["metadata"]["namespace"]}
        metadata |= {"labels": template["metadata"]["labels"], "ownerReferences": [{"uid": owner["metadata"]["uid"]}]}
        pod = {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": "Pending"}}
        self.objects[_key(pod)] = pod = copy.deepcopy(pod)
        pod["metadata"]["uid"] = f"uid-{self._count + 1}"
        self._touch(pod)

    def _owned(self, owner: Manifest) -> _Manifests:
        return [pod for pod in self.pods() if _owner(pod) == owner["metadata"]["uid"]]

    def _collect_garbage(self) -> None:
        while True:
            uids = {found["metadata"]["uid"] for found in self.objects.values()}
            orphans = [
                found
                for found in self.objects.values()
                if _owner(found) and _owner(found) not in uids and not _is_going(found)
            ]
            if not orphans:
                return
            for found in orphans:
                self._remove(found)

    def _remove(self, found: Manifest) -> None:
        """A pod that holds resources is told to stop; all else is gone at once."""
        if found["kind"] == "Pod" and is_active(found):
            if not _is_going(found):
                found["metadata"]["deletionTimestamp"] = stamp(self.now)
                self._touch(found)
        else:
            self.objects.pop(_key(found), None)
            self._count += 1

    def _change(self, found: Manifest, change: Manifest) -> None:
        before = copy.deepcopy(found)
        _merge_patch(found, change)
        if found != before:
            self._touch(found)

    def set_status(self, found: Manifest, status: Manifest) -> None:
        """What an object's controller says of it."""
        if found.get("status") != status:
            found["status"] = copy.deepcopy(status)
            self._touch(found)

    def _touch(self, found: Manifest) -> None:
        self._count += 1
        found["metadata"]["resourceVersion"] = str(self._count)

    def _at(self, kind: str, namespace: str, name: str) -> Manifest:
        try:
            return self.objects[kind, namespace, name]
        except KeyError:
            raise ClusterError(404, "NotFound", f"{kind} {name} not found") from None

    def _log(self, verb: str, kind: str, name: str) -> None:
        self.log.append(f"{verb} {kind} {name}")


class FakeOperator:
    """What the operator does at one look, without threads and in the cluster's own time.

    It sees the cluster as of its last `refresh`, save what it was answered itself.
    """

    def __init__(self, cluster: FakeCluster, **settings: Any) -> None:
        self.cluster = cluster
        self.cache = Cache()
        self.progress: Progress | None = None
        self.settings = Operator(**{"images": Images(), "neighbours": Neighbours(operator="gvm-system"), **settings})
        self.decision = Decision()

    def refresh(self) -> "FakeOperator":
        for kind in (KIND, *CHILD_KINDS):
            listing = self.cluster.list(kind)
            self.cache.listed(kind, listing.items, listing.resource_version)
        return self

    def observed(self, name: str = "a") -> Observed:
        key = ("default", name)
        job, children = self.cache.job(key), self.cache.children(key)
        assert job is not None
        return Observed(
            job=job,
            children=tuple(child for child in children if child["kind"] != "Pod"),
            pods=tuple(child for child in children if child["kind"] == "Pod"),
            progress=self.progress,
        )

    def decide(self) -> Decision:
        return desired(self.observed(), self.cluster.now, operator=self.settings, token="t0k3n")

    def look(self) -> Decision:
        """Decide, do and say; where somebody else was faster to say something, that is all that is learned."""
        if self.cache.job(("default", "a")) is None:
            return Decision()
        self.decision = decision = self.decide()
        job = self.observed().job
        if decision.status.phase in TERMINAL:
            self._say(job, decision)
        done = Executor(self.cluster, job).perform(decision.actions)
        assert not done.refusals
        for seen in done.seen:
            self.cache.saw(seen)
        if decision.status.phase not in TERMINAL:
            self._say(job, decision)
        return decision

    def run(self, num_rounds: int = 3) -> Decision:
        """Look and let the cluster act, some rounds."""
        for _ in range(num_rounds):
            self.refresh().look()
            self.cluster.step()
        return self.refresh().look()

    def _say(self, job: Manifest, decision: Decision) -> None:
        if decision.status == read_status(job) and job.get("status"):
            return
        try:
            self.cache.saw(self.cluster.patch_status(job, status_patch(decision.status)))
        except ClusterError as error:
            if error.code == 404:
                self.cache.lost(job)
            elif error.code == 409:
                self.cache.saw(self.cluster.get(KIND, "default", job["metadata"]["name"]))
            else:
                raise


def _no_fault(*_: str) -> None:
    """Every request is served."""


def _plain(manifest: Manifest) -> Manifest:
    """A copy as it comes out of JSON; NaN is none."""
    copied: Manifest = json.loads(json.dumps(manifest, allow_nan=False))
    return copied


def _merge_patch(target: Manifest, change: Manifest) -> None:
    """RFC 7396."""
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _merge_patch(target[key], value)
        else:
            target[key] = value


def _key(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _owner(manifest: Manifest) -> str:
    owners = manifest["metadata"].get("ownerReferences") or [{"uid": ""}]
    return str(owners[0]["uid"])


def _is_going(manifest: Manifest) -> bool:
    return "deletionTimestamp" in manifest["metadata"]
