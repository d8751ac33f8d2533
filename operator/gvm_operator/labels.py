"""Labels and metadata of a job's children: how they are found again."""

from typing import Any

from gvm_api.spec import GVMTrainingJob

JOB_LABEL = "gvm.rlhflow.dev/job"
"""On every child and pod: the job's name."""
ATTEMPT_LABEL = "gvm.rlhflow.dev/attempt"
"""On the learner's Jobs and pods: the number of the gang, from 0."""
UID_LABEL = "gvm.rlhflow.dev/job-uid"
"""On every pod: the job's uid, since one that was deleted may have had the same name."""
ROLE_LABEL = "app.kubernetes.io/component"


def labels(job: GVMTrainingJob, role: str) -> dict[str, str]:
    """The recommended labels, and the job's own."""
    return {
        "app.kubernetes.io/name": "gvm",
        "app.kubernetes.io/instance": job.metadata.name,
        ROLE_LABEL: role,
        "app.kubernetes.io/managed-by": "gvm-operator",
        JOB_LABEL: job.metadata.name,
    }


def metadata(job: GVMTrainingJob, name: str, role: str) -> dict[str, Any]:
    """A child's metadata."""
    return {"name": name, "namespace": job.metadata.namespace, "labels": labels(job, role)}
