"""Where a job runs: the addresses, paths and images that differ between a cluster and one machine."""

from dataclasses import dataclass, field

from gvm_api import names
from gvm_api.spec import GVMTrainingJob

PORT = 8000
WEIGHTS_PORT = 8001
RENDEZVOUS_PORT = 29500
RUN_DIR = "/gvm/run"
JOB_DIR = "/gvm/job"
JOB_FILE_NAME = "job.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Default container image of each role, and how pods get it."""

    rollout: str = "gvm-rollout:0.1.0"
    allocator: str = "gvm-allocator:0.1.0"
    learner: str = "gvm-trainer:0.1.0"
    pull_policy: str = ""
    """imagePullPolicy where the job names none; empty leaves it to Kubernetes."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets for a private registry, in the job's namespace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """How the processes of one job find one another.

    Example:
        in a cluster rollout_urls is ("dns+http://arithmetic-rollout.default.svc:8000",); on one machine with two
        servers it is ("http://127.0.0.1:41001", "http://127.0.0.1:41002").
    """

    allocator_url: str
    rollout_urls: tuple[str, ...]
    weights_host: str
    weights_port: int
    rendezvous_host: str
    rendezvous_port: int
    run_dir: str
    job_file: str
    termination_log: str = "/dev/termination-log"
    """Where a container leaves its last word; Kubernetes' default path."""
    images: Images = field(default_factory=Images)


def cluster_site(job: GVMTrainingJob, images: Images, *, attempt: int = 0) -> Site:
    """Addresses by the names of Services, paths as they are mounted into the pods; `attempt` numbers the gang."""
    name, namespace = job.metadata.name, job.metadata.namespace
    # An Indexed Job names its first pod's host so.
    first_learner = f"{names.learner_attempt(name, attempt)}-0.{names.child(name, names.LEARNER)}.{namespace}.svc"
    return Site(
        allocator_url=f"http://{names.child(name, names.ALLOCATOR)}.{namespace}.svc:{PORT}",
        rollout_urls=(f"dns+http://{names.child(name, names.ROLLOUT)}.{namespace}.svc:{PORT}",),
        weights_host=first_learner,
        weights_port=WEIGHTS_PORT,
        rendezvous_host=first_learner,
        rendezvous_port=RENDEZVOUS_PORT,
        run_dir=f"{RUN_DIR}/{name}",  # a claim may serve several jobs
        job_file=f"{JOB_DIR}/{JOB_FILE_NAME}",
        images=images,
    )
