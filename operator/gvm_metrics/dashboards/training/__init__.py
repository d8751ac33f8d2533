"""The dashboard of one job: does it learn, what does the allocation gain, what does it cost, is it well."""

from gvm_metrics.dashboards.boards import TRAINING, Annotation, Board, datasource, label_values, window
from gvm_metrics.dashboards.promql import ONE_JOB
from gvm_metrics.dashboards.training import allocation, cost, learning, servers

_KNOWN = '{__name__=~"gvm_iteration|gvm_job_phase"}'
"""Jobs that train here or wait in the cluster."""


def board() -> Board:
    """The whole dashboard."""
    return Board(
        uid=TRAINING,
        says="One GVMTrainingJob: convergence, sample budgets, variance of the gradient, cost, health.",
        variables=(
            datasource(),
            label_values("namespace", "Namespace", f"label_values({_KNOWN}, namespace)"),
            label_values("job", "Job", f'label_values({_KNOWN[:-1]}, namespace="$namespace"}}, job)'),
            window(),
        ),
        rows=(*learning.rows(), *allocation.rows(), *cost.rows(), *servers.rows()),
        annotations=(Annotation("Learner restarts", _restarts(), "orange"),),
        span="now-1h",
    )


def _restarts() -> str:
    """What the operator counts, or where there is none, counters that begin anew."""
    counted = f"max(changes({ONE_JOB.of('gvm_job_restarts')}[2m])) > 0"
    return f"{counted} or max(resets({ONE_JOB.of('gvm_weight_sync_bytes_total')}[2m])) > 0"
