"""The pod template of a role: the restricted security context, volumes, placement, and the user's own laid over it."""

from typing import Any

from gvm_api import names
from gvm_api.spec import GVMTrainingJob, PodSpec
from gvm_operator.labels import labels
from gvm_operator.merge import merge
from gvm_operator.site import JOB_DIR, RUN_DIR, Site

Manifest = dict[str, Any]

USER_ID = 1000
"""The images' user."""
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",  # a volume full of checkpoints takes minutes to walk through
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def pod_template(
    job: GVMTrainingJob, role: str, pods: PodSpec, container: Manifest, site: Site, *, gang: str = ""
) -> Manifest:
    """A role's pods; `gang` is the name of the learner's Job, whose pods know one another by host name."""
    volumes, mounts = _volumes(job, role)
    spec: Manifest = {
        "containers": [
            {
                **container,
                "securityContext": _CONTAINER_SECURITY,
                # The last lines of a container that fails end up in the job's status.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [*mounts, *(dict(m) for m in pods.volume_mounts)],
            }
        ],
        "automountServiceAccountToken": False,
        # Process 1 ignores a SIGTERM that it has no handler for, as Python and vLLM have none for as long as they load.
        # Shared, process 1 is the pod's own, and a container that is told to go while it loads goes at once.
        "shareProcessNamespace": True,
        # Variables that Kubernetes derives from Services' names would collide with vLLM's, such as VLLM_PORT.
        "enableServiceLinks": False,
        "securityContext": {**_POD_SECURITY, **pods.security_context},
        "volumes": [*volumes, *(dict(v) for v in pods.volumes)],
        **_placement(pods, site),
        **(_gang(job, gang) if gang else {}),
    }
    template: Manifest = merge({"metadata": {"labels": labels(job, role)}, "spec": spec}, pods.pod_template)
    _add_run_volume(job, template["spec"])
    return template


def _add_run_volume(job: GVMTrainingJob, spec: Manifest) -> None:
    """The run directory's volume, in pods that mount it: a server that does not need not be near it."""
    mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts") or ()}
    if "run" in mounted:
        spec["volumes"] = [{"name": "run", **_run_volume(job)}, *spec["volumes"]]


def _placement(pods: PodSpec, site: Site) -> Manifest:
    given: Manifest = {
        "nodeSelector": pods.node_selector,
        "tolerations": [dict(t) for t in pods.tolerations],
        "affinity": pods.affinity,
        "priorityClassName": pods.priority_class_name,
        "schedulerName": pods.scheduler_name,
        "imagePullSecrets": [
            *({"name": name} for name in site.images.pull_secrets),
            *(dict(s) for s in pods.image_pull_secrets),
        ],
    }
    return {key: value for key, value in given.items() if value}


def _gang(job: GVMTrainingJob, gang: str) -> Manifest:
    # An Indexed Job sets host names itself. For one pod it is set here as well: a cluster may be too old for that.
    alone = {"hostname": f"{gang}-0"} if job.spec.learner.replicas == 1 else {}
    return {"restartPolicy": "Never", "subdomain": names.child(job.metadata.name, names.LEARNER), **alone}


def _volumes(job: GVMTrainingJob, role: str) -> tuple[list[Manifest], list[Manifest]]:
    """The volumes of a role's pods, and where its container mounts them."""
    # The root file system is read-only: caches, spools and HOME are here.
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]
    # Servers get their weights over the network, unless they are to fetch them from the run directory.
    reads_weights = role == names.ROLLOUT and job.spec.weight_sync.backend == "filesystem"
    if role != names.ROLLOUT or reads_weights:
        mounts.append({"name": "run", "mountPath": RUN_DIR, **({"readOnly": True} if reads_weights else {})})
    if role == names.LEARNER:
        volumes.append({"name": "job", "configMap": {"name": names.config(job.metadata.name)}})
        mounts.append({"name": "job", "mountPath": JOB_DIR, "readOnly": True})
    if size := _shared_memory(job, role):
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return volumes, mounts


def _shared_memory(job: GVMTrainingJob, role: str) -> str | None:
    """Size of /dev/shm, through which vLLM's processes and NCCL pass data: a container's own 64 MiB are too few."""
    sizes = {names.LEARNER: job.spec.learner.shared_memory, names.ROLLOUT: job.spec.rollout.shared_memory}
    return sizes.get(role)


def _run_volume(job: GVMTrainingJob) -> Manifest:
    storage = job.spec.storage
    if storage.volume:
        return dict(storage.volume)
    claim = storage.existing_claim or names.run_claim(job.metadata.name)
    return {"persistentVolumeClaim": {"claimName": claim}}
