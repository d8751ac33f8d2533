"""What the operator sees of one job: the object itself, its children, its pods, the learner's progress. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gvm_api import names
from gvm_api.wire import Progress
from gvm_operator.labels import ATTEMPT_LABEL, ROLE_LABEL, UID_LABEL

Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """One job at one moment, as far as it is known."""

    job: Manifest
    """The GVMTrainingJob as the API server holds it."""
    children: tuple[Manifest, ...] = ()
    """What it owns, Secrets excepted: the operator may not read those."""
    pods: tuple[Manifest, ...] = ()
    """All that go by the job's name: those on their way out hold their resources yet, and may still write."""
    progress: Progress | None = None
    """A learner's last word, None where the allocator could not be asked. `word_of` tells whether it still counts."""

    def child(self, kind: str, name: str) -> Manifest | None:
        """One child, None where there is none."""
        return next((c for c in self.children if c["kind"] == kind and c["metadata"]["name"] == name), None)

    def of_kind(self, *kinds: str) -> list[Manifest]:
        """Children of these kinds."""
        return [child for child in self.children if child["kind"] in kinds]

    def of_role(self, kind: str, role: str) -> list[Manifest]:
        """Children of a kind and a role."""
        return [child for child in self.of_kind(kind) if role_of(child) == role]

    @property
    def learner_jobs(self) -> dict[int, Manifest]:
        """The learner's Jobs by the number of their attempt."""
        return {attempt_of(job): job for job in self.of_kind("Job")}

    @property
    def own_pods(self) -> list[Manifest]:
        """Pods of this very job, none of an earlier one of its name."""
        uid = self.job["metadata"].get("uid")
        return [pod for pod in self.pods if pod["metadata"]["labels"].get(UID_LABEL, uid) == uid]

    def pods_of(self, role: str, *, attempt: int | None = None) -> list[Manifest]:
        """This job's pods of a role, of one attempt where that is given; those on their way out are no longer its."""
        return [
            pod
            for pod in self.own_pods
            if role_of(pod) == role and attempt in (None, attempt_of(pod)) and not is_leaving(pod)
        ]

    def word_of(self, attempt: int) -> Progress | None:
        """What the learner of an attempt says of itself: nothing yet, where the last word was another one's."""
        uids = [pod["metadata"]["uid"] for pod in self.pods_of(names.LEARNER, attempt=attempt)]
        is_current = self.progress is None or self.progress.is_of(*uids)
        return self.progress if is_current else Progress(phase="Starting")


def role_of(child: Manifest) -> str:
    """Role that a child or a pod belongs to."""
    return str(child["metadata"].get("labels", {}).get(ROLE_LABEL, ""))


def attempt_of(child: Manifest) -> int:
    """Number of the gang that a learner's Job or pod belongs to."""
    text = child["metadata"].get("labels", {}).get(ATTEMPT_LABEL, "0")
    return int(text) if text.isdecimal() else 0


def condition_of(child: Manifest, kind: str) -> Manifest | None:
    """A condition of a Kubernetes object where its status is True."""
    conditions: Iterable[Manifest] = (child.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def is_finished(job: Manifest) -> bool:
    """Whether a Kubernetes Job has come to its end."""
    return condition_of(job, "Complete") is not None or condition_of(job, "Failed") is not None


def is_active(pod: Manifest) -> bool:
    """Whether the pod holds resources, or will: it has not ended."""
    return phase_of(pod) not in ("Succeeded", "Failed")


def is_ready(pod: Manifest) -> bool:
    """Whether the pod is up, its probes pass, and it is not on its way out."""
    return condition_of(pod, "Ready") is not None and not is_leaving(pod)


def is_leaving(child: Manifest) -> bool:
    """Whether it is told to go, and only not gone yet."""
    return "deletionTimestamp" in child["metadata"]


def is_placed(pod: Manifest) -> bool:
    """Whether the pod has a node."""
    return phase_of(pod) != "Pending" or condition_of(pod, "PodScheduled") is not None


def phase_of(pod: Manifest) -> str:
    """A pod's phase."""
    return (pod.get("status") or {}).get("phase") or "Pending"


def time_of(text: str | None) -> datetime | None:
    """A Kubernetes timestamp."""
    return datetime.fromisoformat(text) if text else None


def stamp(moment: datetime) -> str:
    """The same as Kubernetes writes it."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def checkpoint_folder(job_name: str, storage: Manifest) -> str:
    """Where a user finds the checkpoints: the volume, and the folder in it."""
    folder = f"{job_name}/checkpoints"
    if storage.get("volume"):
        kind, source = next(iter(storage["volume"].items()))
        place = (source or {}).get("path") or (source or {}).get("server") or ""
        return f"{kind} {place}: {folder}".replace(" :", ":")
    return f"persistentvolumeclaim/{storage.get('existingClaim') or names.run_claim(job_name)}: {folder}"
