"""Carries actions out, one after the other, and tells what became of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from gvm_api.spec import KIND
from gvm_api.status import JobStatus
from gvm_operator.actions import Action, Create, Delete, DeleteJob, Patch, Refusal, describe
from gvm_operator.cluster import Cluster, ClusterError

Manifest = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Done:
    """What came of some actions."""

    seen: list[Manifest] = field(default_factory=list)
    """Objects as the API server holds them now."""
    refusals: list[Refusal] = field(default_factory=list)


class Executor:
    """Carries out the actions of one job."""

    def __init__(self, cluster: Cluster, job: Manifest) -> None:
        self._cluster = cluster
        self._job = job
        self._namespace: str = job["metadata"]["namespace"]

    def perform(self, actions: Iterable[Action], unknown_kinds: Collection[str] = ()) -> Done:
        """Do all, in order; what is refused does not hold up what follows.

        Args:
            actions: what to do.
            unknown_kinds: kinds that this API server does not serve; a job goes without them.

        Raises:
            ClusterError: the API server does not answer, or fails.
        """
        done = Done()
        for action in actions:
            if isinstance(action, Create) and action.manifest["kind"] in unknown_kinds:
                continue
            try:
                if (seen := self._perform(action)) is not None:
                    done.seen.append(seen)
            except ClusterError as error:
                if not 400 <= error.code < 500 or error.code == 429:
                    raise
                done.refusals.append(Refusal(action=action, message=f"{describe(action)}: {error}"))
        return done

    def _perform(self, action: Action) -> Manifest | None:
        match action:
            case Create(manifest=manifest):
                return self._create(manifest)
            case Patch(kind=kind, name=name, change=change):
                return self._patch(kind, name, change)
            case Delete(kind=kind, name=name, uid=uid):
                self._cluster.delete(kind, self._namespace, name, uid=uid)
            case DeleteJob(uid=uid):
                self._cluster.delete(KIND, self._namespace, self._job["metadata"]["name"], uid=uid)
        return None

    def _patch(self, kind: str, name: str, change: Manifest) -> Manifest | None:
        try:
            return {**self._cluster.patch(kind, self._namespace, name, change), "kind": kind}
        except ClusterError as error:
            if error.code != 404:
                raise
            return None  # somebody has just deleted it: the watch will say so, and the next look makes it again

    def _create(self, manifest: Manifest) -> Manifest | None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            created = self._cluster.create(manifest)
        except ClusterError as error:
            if error.code != 409 or error.reason != "AlreadyExists":
                raise
            if kind == "Secret":  # not to be read; a job's token is the same whoever made it
                return None
            created = self._existing(kind, name, error)
        return None if kind == "Secret" else {**created, "kind": kind}

    def _existing(self, kind: str, name: str, error: ClusterError) -> Manifest:
        """The object of that name, if it is this job's: another operator was faster, or a watch is behind."""
        found = self._cluster.get(kind, self._namespace, name)
        owners = found["metadata"].get("ownerReferences") or []
        if any(owner.get("uid") == self._job["metadata"]["uid"] for owner in owners):
            return found
        if kind == "PersistentVolumeClaim" and not owners:  # a job before this one left it here to be kept
            return found
        message = "exists and is not this job's; it may be that of a job of the same name that is being deleted"
        raise ClusterError(409, "NotOurs", message) from error


def status_patch(status: JobStatus) -> Manifest:
    """The status as a merge patch: what is None or empty is removed, conditions are replaced as a whole.

    An empty string is never sent: old API servers take one in a patch for null, and refuse it.
    """
    return {key: None if value == "" else _said(value) for key, value in status.model_dump(mode="json").items()}


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _said(each) for key, each in value.items() if each not in (None, "")}
    return [_said(each) for each in value] if isinstance(value, list) else value
