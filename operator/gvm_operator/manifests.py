"""A job's children as Kubernetes objects. Pure, deterministic, and the same for `gvm render` and the operator."""

from collections.abc import Sequence
from typing import Any

from gvm_api import names, yaml_format
from gvm_api.spec import API_VERSION, KIND, GVMTrainingJob, PodSpec
from gvm_operator import containers
from gvm_operator.merge import merge
from gvm_operator.site import JOB_FILE, PORT, RENDEZVOUS_PORT, RUN_DIR, WEIGHTS_PORT, Site

Manifest = dict[str, Any]


def children(job: GVMTrainingJob, site: Site, *, token: str) -> list[Manifest]:
    """All children of a job, in the order in which they are applied.

    Args:
        job: the validated job.
        site: addresses, paths and images.
        token: bearer token between the job's own pods.
    """
    claim = [] if job.spec.storage.existing_claim or job.spec.storage.volume else [_claim(job)]
    return [
        _config(job),
        _secret(job, token),
        *claim,
        _service(job, names.ALLOCATOR, {"http": PORT}, headless=False),
        _deployment(job, names.ALLOCATOR, 1, job.spec.allocator, containers.allocator(job, site), strategy="Recreate"),
        # Headless: the learner needs every server's own address, to sync weights into each.
        _service(job, names.ROLLOUT, {"http": PORT}, headless=True),
        _deployment(
            job,
            names.ROLLOUT,
            job.spec.rollout.replicas,
            job.spec.rollout,
            containers.rollout(job, site),
            strategy="RollingUpdate",
        ),
        _service(job, names.LEARNER, {"rendezvous": RENDEZVOUS_PORT, "weights": WEIGHTS_PORT}, headless=True),
        _learner_job(job, site),
    ]


def main_containers(children: Sequence[Manifest]) -> dict[str, Manifest]:
    """The main container of each role among `children`, the user's podTemplate laid over it."""
    workloads = [child for child in children if child["kind"] in ("Deployment", "Job")]
    return {
        child["metadata"]["labels"]["app.kubernetes.io/component"]: child["spec"]["template"]["spec"]["containers"][0]
        for child in workloads
    }


def labels(job: GVMTrainingJob, role: str) -> dict[str, str]:
    """The recommended labels, and the job's own."""
    return {
        "app.kubernetes.io/name": "gvm",
        "app.kubernetes.io/instance": job.metadata.name,
        "app.kubernetes.io/component": role,
        "app.kubernetes.io/managed-by": "gvm-operator",
        "gvm.rlhflow.dev/job": job.metadata.name,
    }


def _meta(job: GVMTrainingJob, name: str, role: str) -> Manifest:
    return {"name": name, "namespace": job.metadata.namespace, "labels": labels(job, role)}


def job_file(job: GVMTrainingJob) -> str:
    """The job as the text of a job file."""
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": job.metadata.name, "namespace": job.metadata.namespace},
        "spec": job.spec.model_dump(mode="json", exclude_unset=True),
    }
    return yaml_format.dump(manifest)


def _config(job: GVMTrainingJob) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(job, names.config(job.metadata.name), "config"),
        "data": {JOB_FILE.rsplit("/", 1)[1]: job_file(job)},
    }


def _secret(job: GVMTrainingJob, token: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _meta(job, names.token_secret(job.metadata.name), names.ALLOCATOR),
        "type": "Opaque",
        "stringData": {containers.TOKEN_KEY: token},
    }


def _claim(job: GVMTrainingJob) -> Manifest:
    storage = job.spec.storage
    spec: Manifest = {
        "accessModes": list(storage.access_modes),
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(job, names.run_claim(job.metadata.name), "storage"),
        "spec": spec,
    }


def _service(job: GVMTrainingJob, role: str, ports: dict[str, int], *, headless: bool) -> Manifest:
    spec: Manifest = {
        "selector": labels(job, role),
        "ports": [{"name": name, "port": port, "targetPort": port} for name, port in ports.items()],
    }
    if headless:
        spec["clusterIP"] = "None"
        # A gang finds its members before any of them is ready.
        spec["publishNotReadyAddresses"] = role == names.LEARNER
    name = names.child(job.metadata.name, role)
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(job, name, role), "spec": spec}


def _deployment(
    job: GVMTrainingJob, role: str, replicas: int, pods: PodSpec, container: Manifest, *, strategy: str
) -> Manifest:
    probe_path = "/readyz" if role == names.ALLOCATOR else "/health"
    container = {
        **container,
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": probe_path, "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 5},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(job, names.child(job.metadata.name, role), role),
        "spec": {
            "replicas": replicas,
            "strategy": {"type": strategy},
            "selector": {"matchLabels": labels(job, role)},
            "template": merge(_pod_template(job, role, pods, container), pods.pod_template),
        },
    }


def _learner_job(job: GVMTrainingJob, site: Site) -> Manifest:
    learner = job.spec.learner
    container = containers.learner(job, site)
    name = names.child(job.metadata.name, names.LEARNER)
    template = _pod_template(job, names.LEARNER, learner, container)
    template["spec"] |= {"restartPolicy": "Never", "subdomain": name}
    template["spec"]["volumes"].append(
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": learner.shared_memory}}
    )
    template["spec"]["containers"][0]["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _meta(job, name, names.LEARNER),
        "spec": {
            "completionMode": "Indexed",
            "completions": learner.replicas,
            "parallelism": learner.replicas,
            "backoffLimit": 0,  # one failure restarts the whole gang, and that is the operator's to do
            "template": merge(template, learner.pod_template),
        },
    }


def _pod_template(job: GVMTrainingJob, role: str, pods: PodSpec, container: Manifest) -> Manifest:
    container = {
        **container,
        "volumeMounts": [
            {"name": "run", "mountPath": RUN_DIR},
            {"name": "job", "mountPath": JOB_FILE.rsplit("/", 1)[0], "readOnly": True},
            *(dict(m) for m in pods.volume_mounts),
        ],
    }
    optional = {
        "nodeSelector": pods.node_selector,
        "tolerations": [dict(t) for t in pods.tolerations],
        "affinity": pods.affinity,
        "securityContext": pods.security_context,
        "priorityClassName": pods.priority_class_name,
        "schedulerName": pods.scheduler_name,
    }
    spec: Manifest = {
        "containers": [container],
        "automountServiceAccountToken": False,
        # Variables that Kubernetes derives from Services' names would collide with vLLM's, such as VLLM_PORT.
        "enableServiceLinks": False,
        "volumes": [
            {"name": "run", **_run_volume(job)},
            {"name": "job", "configMap": {"name": names.config(job.metadata.name)}},
            *(dict(v) for v in pods.volumes),
        ],
        **{key: value for key, value in optional.items() if value},
    }
    return {"metadata": {"labels": labels(job, role)}, "spec": spec}


def _run_volume(job: GVMTrainingJob) -> Manifest:
    storage = job.spec.storage
    if storage.volume:
        return dict(storage.volume)
    claim = storage.existing_claim or names.run_claim(job.metadata.name)
    return {"persistentVolumeClaim": {"claimName": claim}}
