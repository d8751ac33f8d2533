"""The dashboard of the operator itself: does it look at its jobs, and does the API server answer.

Knows what the figures mean, not how they are drawn.
"""

from functools import partial

from gvm_metrics.dashboards import panels
from gvm_metrics.dashboards.boards import OPERATOR, Board, Row, any_of, datasource, label_values
from gvm_metrics.dashboards.fleet.jobs import OPEN, by_phase, counts
from gvm_metrics.dashboards.panels import NO_OPERATOR, Frame, Query, column, lines, number, rows
from gvm_metrics.dashboards.promql import CHOSEN_NAMESPACES as JOBS
from gvm_metrics.dashboards.promql import SCRAPES


def board() -> Board:
    """The whole dashboard."""
    return Board(
        uid=OPERATOR,
        says="What the GVM operator does, and the phases of its jobs.",
        variables=(
            datasource(),
            any_of(label_values("namespace", "Namespace", "label_values(gvm_job_phase, namespace)")),
        ),
        rows=(
            Row("At a glance", (*counts(4), *_heart())),
            Row("Looks at jobs", _looks()),
            Row("API server and jobs", (_requests(), by_phase(12), _jobs())),
        ),
        annotations=(),
    )


def _heart() -> tuple[panels.Number, ...]:
    small = partial(Frame, width=4, height=4, none=NO_OPERATOR)
    return (
        number(
            small(
                "Since the last resync",
                "Time since all was listed last. Good: below settings.resyncSeconds; the health check fails when it "
                "grows stale.",
                panels.SECONDS,
            ),
            Query("time() - max(gvm_operator_last_resync_timestamp_seconds)"),
            steps=((None, "green"), (120, "orange"), (300, "red")),
        ),
        number(
            small("Jobs due now", "Jobs that wait for a look. Good: near 0.", panels.COUNT),
            Query("sum(gvm_operator_queue_length)"),
            steps=((None, "green"), (50, "orange")),
        ),
    )


def _looks() -> tuple[panels.Lines, ...]:
    seconds = "gvm_operator_reconcile_duration_seconds_bucket"
    quarter = partial(Frame, width=6, none=NO_OPERATOR)
    return (
        lines(
            quarter(
                "Reconciles",
                "Looks at jobs a second, by how they ended. Good: no errors.",
                panels.PER_SECOND,
            ),
            Query(f"sum by (result) (rate(gvm_operator_reconcile_total[{SCRAPES}]))", "{{result}}"),
            low=0,
        ),
        lines(
            Frame(
                "Reconcile errors",
                "Looks that failed, a second, by cause. Good: none. Conflict now and then is harmless, Bug is not: "
                "the operator's log has it.",
                panels.PER_SECOND,
                width=6,
                none="no errors",
            ),
            Query(f"sum by (reason) (rate(gvm_operator_reconcile_errors_total[{SCRAPES}]))", "{{reason}}"),
            low=0,
        ),
        lines(
            quarter(
                "Duration of a reconcile",
                "Quantiles over all jobs. Good: below a second; it is the API server's time, mostly.",
                panels.SECONDS,
            ),
            *(
                Query(f"histogram_quantile({q}, sum by (le) (rate({seconds}[{SCRAPES}])))", name)
                for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            low=0,
        ),
        lines(
            quarter(
                "Jobs due",
                "Jobs that wait for a look. Good: near 0; grows where settings.workers are too few.",
                panels.COUNT,
            ),
            Query("sum(gvm_operator_queue_length)", "due"),
            low=0,
        ),
    )


def _requests() -> panels.Lines:
    return lines(
        Frame(
            "API requests",
            "Requests to the API server a second, by verb, resource and status; 0 is no answer. Good: 2xx, with a 409 "
            "now and then.",
            "reqps",
            width=12,
            none=NO_OPERATOR,
        ),
        Query(
            f"sum by (verb, resource, code) (rate(gvm_operator_api_requests_total[{SCRAPES}]))",
            "{{verb}} {{resource}} {{code}}",
        ),
        low=0,
    )


def _jobs() -> panels.Table:
    kind = f"max by (namespace, job, policy, algorithm, model) ({JOBS.of('gvm_job_info')})"
    phase = f"({JOBS.newest('gvm_job_phase', 'namespace', 'job', 'phase')} == 1)"
    frame = Frame(
        "Jobs",
        "Every job with its phase; its name opens its training dashboard.",
        "none",
        width=24,
        height=10,
        none="no jobs",
    )
    names = ("namespace", "job", "phase", "algorithm", "policy", "model")
    table = rows(
        frame,
        Query(f"{phase} * on (namespace, job) group_left (policy, algorithm, model) {kind}"),
        columns={name: name for name in names},
        drop=("Value",),
    )
    return column(table, "job", link=OPEN)
