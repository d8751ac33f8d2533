"""The dashboard of all jobs: which run, which wait, which failed, and what they hold.

All but the tokens come from the operator, so that jobs show that never got a pod.
"""

from gvm_metrics.dashboards.boards import FLEET, Annotation, Board, Row, any_of, datasource, label_values
from gvm_metrics.dashboards.fleet import capacity, jobs
from gvm_metrics.dashboards.promql import CHOSEN_NAMESPACES as JOBS


def board() -> Board:
    """The whole dashboard."""
    return Board(
        uid=FLEET,
        says="All GVMTrainingJobs of the chosen namespaces: phases, progress, waiting, failures, GPUs.",
        variables=(
            datasource(),
            any_of(label_values("namespace", "Namespace", "label_values(gvm_job_phase, namespace)")),
        ),
        rows=(
            Row("At a glance", (*jobs.counts(4), *capacity.gpu_counts())),
            Row("Jobs", (jobs.every_job(), jobs.phases())),
            Row("Waiting and failing", (jobs.waiting(), jobs.restarts(), jobs.by_phase(8))),
            Row("Progress", jobs.progress()),
            Row("GPUs and pods", capacity.gpus()),
            Row("Operator", capacity.operator()),
        ),
        annotations=(
            Annotation("Restarts", _changes("gvm_job_restarts"), "orange"),
            Annotation("Failures", _changes("gvm_job_phase", 'phase="Failed"'), "red"),
        ),
        span="now-24h",
    )


def _changes(metric: str, *where: str) -> str:
    return f"sum by (namespace, job) (changes({JOBS.of(metric, *where)}[2m])) > 0"
