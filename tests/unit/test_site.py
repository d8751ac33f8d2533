"""The cluster's addresses: names of Services, and the paths that pods mount."""

from gvm_api.load import validate_job
from gvm_operator.site import Images, cluster_site


def test_in_a_cluster_processes_find_one_another_by_the_names_of_services() -> None:
    job = validate_job(
        {
            "apiVersion": "gvm.rlhflow.dev/v1alpha1",
            "kind": "GVMTrainingJob",
            "metadata": {"name": "math", "namespace": "research"},
            "spec": {"model": {"path": "m"}, "dataset": {"path": "d.jsonl"}},
        }
    )
    site = cluster_site(job, Images(rollout="r:1"))
    assert site.allocator_url == "http://math-allocator.research.svc:8000"
    assert site.rollout_urls == ("dns+http://math-rollout.research.svc:8000",), "every address of the name"
    assert site.weights_host == site.rendezvous_host == "math-learner-0-0.math-learner.research.svc"
    assert site.weights_port != site.rendezvous_port
    assert (site.run_dir, site.job_file) == ("/gvm/run/math", "/gvm/job/job.yaml"), "jobs may share a volume"
    assert (site.images.rollout, site.images.learner) == ("r:1", "gvm-trainer:0.1.0")
