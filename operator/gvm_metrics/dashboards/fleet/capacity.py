"""GPUs and pods of the jobs, and the operator's queue. Knows what figures mean, not how they look."""

from functools import partial

from gvm_metrics.dashboards import panels
from gvm_metrics.dashboards.panels import NO_OPERATOR, Frame, Query, bars, lines, number, stacked
from gvm_metrics.dashboards.promql import CHOSEN_NAMESPACES as JOBS
from gvm_metrics.dashboards.promql import EACH_JOB, JOB_NAME, hours

_GPUS = JOBS.newest("gvm_job_gpus", *EACH_JOB, "role")


def gpu_counts() -> tuple[panels.Number, ...]:
    """GPUs asked for now, and over the time that is shown."""
    small = partial(Frame, width=4, height=4, none=NO_OPERATOR)
    return (
        number(
            small(
                "GPUs asked for",
                "By the pods that there should be, whether they have a node or not.",
                panels.GPUS,
            ),
            Query(f"sum({_GPUS})"),
        ),
        number(
            small("GPU-hours", "GPUs asked for × time, over all that is shown.", panels.GPU_HOURS),
            Query(hours(_GPUS)),
            is_now=True,
        ),
    )


def gpus() -> tuple[panels.Lines | panels.Bars, ...]:
    """Who holds the GPUs, and which pods are not ready."""
    says = "GPUs that the pods of jobs ask for, whether they have a node or not."
    ready, desired = (
        f"sum by (role) ({JOBS.newest(f'gvm_job_pods_{which}', *EACH_JOB, 'role')})" for which in ("ready", "desired")
    )
    return (
        stacked(
            Frame("GPUs by namespace", says, panels.GPUS, width=6, none=NO_OPERATOR),
            Query(f"sum by (namespace) ({_GPUS})", "{{namespace}}"),
        ),
        stacked(
            Frame("GPUs by job", says, panels.GPUS, width=6, none=NO_OPERATOR),
            Query(f"sum by (namespace, job) ({_GPUS})", JOB_NAME),
        ),
        bars(
            Frame(
                "GPU-hours by job",
                "GPUs asked for × time, over all that is shown, of jobs that still exist.",
                panels.GPU_HOURS,
                width=6,
                none=NO_OPERATOR,
            ),
            Query(hours(_GPUS, *EACH_JOB), JOB_NAME),
        ),
        lines(
            Frame(
                "Pods that are not ready",
                "Pods that there should be, less those that are ready, by role. Good: 0 but for starts and restarts.",
                panels.COUNT,
                width=6,
                none=NO_OPERATOR,
            ),
            Query(f"{desired} - {ready}", "{{role}}"),
            low=0,
        ),
    )


def operator() -> tuple[panels.Lines, ...]:
    """Whether the operator keeps up."""
    return (
        lines(
            Frame(
                "Jobs due",
                "Jobs that wait for a look of the operator. Good: near 0; grows where settings.workers are too few or "
                "the API server is slow.",
                panels.COUNT,
                width=12,
                none=NO_OPERATOR,
            ),
            Query("sum(gvm_operator_queue_length)", "due"),
            low=0,
        ),
        lines(
            Frame(
                "Looks that failed",
                "A second, by cause, and all looks. Good: 0; Conflict now and then is harmless. More on the "
                "operator's dashboard.",
                panels.PER_SECOND,
                width=12,
                none=NO_OPERATOR,
            ),
            Query("sum(rate(gvm_operator_reconcile_total[$__rate_interval]))", "all"),
            Query("sum by (reason) (rate(gvm_operator_reconcile_errors_total[$__rate_interval]))", "{{reason}}"),
            low=0,
        ),
    )
