"""What the operator has seen of the cluster: jobs, their children and pods, kept fresh by watches and resyncs.

Holds objects without the parts that nobody reads. A watch that was interrupted may miss a deletion; the next full
listing finds it. Knows no API.
"""

from collections.abc import Iterable
from typing import Any

from gvm_api.spec import KIND
from gvm_operator.labels import JOB_LABEL

Manifest = dict[str, Any]
JobKey = tuple[str, str]
"""Namespace and name of a job."""
_ObjectKey = tuple[str, str]
"""Kind and name within a job's namespace."""

_SPEC_KEPT = {"Deployment": ("replicas",), "Job": ("completions",), "Pod": ("nodeName",)}
_METADATA_DROPPED = ("managedFields", "annotations")


class Cache:
    """Objects by the job that they belong to. Not for several threads at once."""

    def __init__(self) -> None:
        self._jobs: dict[JobKey, Manifest] = {}
        self._children: dict[JobKey, dict[_ObjectKey, Manifest]] = {}

    def jobs(self) -> list[JobKey]:
        """Every job that exists."""
        return list(self._jobs)

    def job(self, key: JobKey) -> Manifest | None:
        """One job as last seen."""
        return self._jobs.get(key)

    def children(self, key: JobKey) -> list[Manifest]:
        """What belongs to the job that exists now, pods included: objects of an earlier one of its name do not."""
        job = self._jobs.get(key)
        uid = job["metadata"]["uid"] if job else ""
        return [child for child in self._children.get(key, {}).values() if _belongs(child, uid)]

    def saw(self, manifest: Manifest) -> JobKey | None:
        """An object exists. Returns whose it is, None where it is no job's, or older than what is known."""
        key = job_key(manifest)
        if key is None:
            return None
        known = self._known(key, manifest)
        if known is not None and _version(known) > _version(manifest):
            return None
        if manifest["kind"] == KIND:
            self._jobs[key] = manifest
        else:
            self._children.setdefault(key, {})[_object_key(manifest)] = _trimmed(manifest)
        return key

    def lost(self, manifest: Manifest) -> JobKey | None:
        """An object is gone. Returns whose it was."""
        key = job_key(manifest)
        if key is None:
            return None
        known = self._known(key, manifest)
        if known is not None and known["metadata"]["uid"] != manifest["metadata"]["uid"]:
            return None  # another of the same name has come since
        if manifest["kind"] == KIND:
            self._jobs.pop(key, None)
        else:
            self._children.get(key, {}).pop(_object_key(manifest), None)
        self._forget_if_empty(key)
        return key

    def listed(self, kind: str, items: Iterable[Manifest], resource_version: int) -> set[JobKey]:
        """All objects of a kind as of a version. Returns the jobs that something changed for."""
        given = {(key, item["metadata"]["name"]): item for item in items if (key := job_key(item)) is not None}
        changed: set[JobKey] = set()
        for key, known in self._of_kind(kind):
            if (key, known["metadata"]["name"]) not in given and _version(known) <= resource_version:
                self.lost(known)
                changed.add(key)
        for (key, _), item in given.items():
            before = self._known(key, item)
            if before is None or _version(before) < _version(item):
                self.saw(item)
                changed.add(key)
        return changed

    def _of_kind(self, kind: str) -> list[tuple[JobKey, Manifest]]:
        if kind == KIND:
            return list(self._jobs.items())
        return [
            (key, child)
            for key, children in self._children.items()
            for child in children.values()
            if child["kind"] == kind
        ]

    def _known(self, key: JobKey, manifest: Manifest) -> Manifest | None:
        if manifest["kind"] == KIND:
            return self._jobs.get(key)
        return self._children.get(key, {}).get(_object_key(manifest))

    def _forget_if_empty(self, key: JobKey) -> None:
        if not self._children.get(key):
            self._children.pop(key, None)


def job_key(manifest: Manifest) -> JobKey | None:
    """The job that an object is, or that its label names."""
    metadata = manifest["metadata"]
    name = metadata["name"] if manifest["kind"] == KIND else (metadata.get("labels") or {}).get(JOB_LABEL)
    return (metadata["namespace"], name) if name else None


def _object_key(manifest: Manifest) -> _ObjectKey:
    return manifest["kind"], manifest["metadata"]["name"]


def _belongs(child: Manifest, uid: str) -> bool:
    owners = child["metadata"].get("ownerReferences") or []
    if child["kind"] == "Pod":  # owned by a ReplicaSet or a Job
        return True
    if not owners:  # a claim that outlives its job
        return bool(child["kind"] == "PersistentVolumeClaim")
    return any(owner.get("uid") == uid for owner in owners)


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("resourceVersion") or 0)


def _trimmed(manifest: Manifest) -> Manifest:
    kind = manifest["kind"]
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _METADATA_DROPPED}
    spec = {key: manifest["spec"][key] for key in _SPEC_KEPT.get(kind, ()) if key in (manifest.get("spec") or {})}
    kept: Manifest = {"kind": kind, "metadata": metadata, "spec": spec, "status": manifest.get("status") or {}}
    return {**kept, "data": manifest["data"]} if kind == "ConfigMap" and "data" in manifest else kept
