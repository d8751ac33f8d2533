"""Jobs by phase: how many, which, since when; restarts and progress. Knows what figures mean, not how they look."""

from gvm_metrics.dashboards import panels
from gvm_metrics.dashboards.boards import TRAINING, url
from gvm_metrics.dashboards.panels import (
    NO_OPERATOR,
    PHASE_COLORS,
    Frame,
    Query,
    column,
    lines,
    number,
    rows,
    stacked,
    states,
)
from gvm_metrics.dashboards.promql import CHOSEN_NAMESPACES as JOBS
from gvm_metrics.dashboards.promql import EACH_JOB, JOB_NAME

OPEN = ("Open the training dashboard", url(TRAINING, job=True))
"""Link of a job's name in a table."""

_WAITING = 'phase=~"Pending|Starting"'
_GPUS = JOBS.newest("gvm_job_gpus", *EACH_JOB, "role")


def counts(width: int) -> tuple[panels.Number, ...]:
    """How many jobs run, wait, are paused, have failed."""
    return (
        _count(("Running",), "Running", "Jobs whose learner trains.", "green", width),
        _count(
            ("Pending", "Starting"),
            "Waiting",
            "Jobs without nodes (Pending), or whose servers and learner start (Starting).",
            "blue",
            width,
        ),
        _count(("Suspended",), "Suspended", "Jobs that are paused on purpose: they hold nothing.", "purple", width),
        _count(
            ("Failed",),
            "Failed",
            "Jobs that have given up; they stay until they are deleted or their TTL ends. Good: 0. kubectl describe "
            "says why.",
            "red",
            width,
        ),
    )


def by_phase(width: int) -> panels.Lines:
    """How many jobs stand in each phase."""
    says = "How many jobs stand in each phase. Good: those that wait are few, and not for long."
    phases = f"sum by (phase) ({JOBS.newest('gvm_job_phase', *EACH_JOB, 'phase')})"
    frame = Frame("Jobs by phase", says, panels.COUNT, width=width, none=NO_OPERATOR)
    panel = stacked(frame, Query(phases, "{{phase}}"))
    for phase, color in PHASE_COLORS.items():
        panel.override_by_name(phase, [panels.fixed(color)])
    return panel


def _count(phases: tuple[str, ...], title: str, says: str, color: str, width: int) -> panels.Number:
    jobs = JOBS.newest("gvm_job_phase", *EACH_JOB, "phase", where=(f'phase=~"{"|".join(phases)}"',))
    frame = Frame(title, says, panels.COUNT, width=width, height=4, none=NO_OPERATOR)
    return number(frame, Query(f"sum({jobs})"), steps=((None, "text"), (1, color)))


def every_job() -> panels.Table:
    """A table of all jobs."""
    kind = f"max by (namespace, job, policy, algorithm, model) ({JOBS.of('gvm_job_info')})"
    phase = f"({JOBS.newest('gvm_job_phase', *EACH_JOB, 'phase')} == 1)"
    ran = JOBS.newest("gvm_job_start_time_seconds", *EACH_JOB)
    ended = JOBS.newest("gvm_job_completion_time_seconds", *EACH_JOB)
    frame = Frame(
        "Jobs",
        "Every job as its status has it; the job's name opens its training dashboard. Accuracy is that of the first "
        "evaluation set, empty before its first evaluation.",
        "none",
        width=24,
        height=10,
        none="no jobs",
    )
    columns = {
        "namespace": "namespace",
        "job": "job",
        "phase": "phase",
        "Value #B": "iteration",
        "Value #C": "of",
        "Value #D": "accuracy",
        "Value #E": "restarts",
        "Value #F": "running for",
        "Value #G": "GPUs",
        "policy": "policy",
        "algorithm": "algorithm",
        "model": "model",
    }
    table = rows(
        frame,
        Query(f"{phase} * on (namespace, job) group_left (policy, algorithm, model) {kind}"),
        Query(JOBS.newest("gvm_job_iteration", *EACH_JOB)),
        Query(JOBS.newest("gvm_job_max_iterations", *EACH_JOB)),
        Query(JOBS.newest("gvm_job_accuracy", *EACH_JOB)),
        Query(JOBS.newest("gvm_job_restarts", *EACH_JOB)),
        Query(f"({ended} or 0 * {ran} + time()) - {ran}"),
        Query(f"sum by (namespace, job) ({_GPUS})"),
        columns=columns,
        drop=("Value #A",),
    )
    table = column(table, "job", link=OPEN)
    return column(column(table, "accuracy", unit=panels.SHARE), "running for", unit=panels.SECONDS)


def phases() -> panels.States:
    """Each job's phase over time."""
    texts = {number: (phase, color) for number, (phase, color) in enumerate(PHASE_COLORS.items(), start=1)}
    numbered = (
        f"{number} * {JOBS.newest('gvm_job_phase', *EACH_JOB, 'phase', where=(f'phase={chr(34)}{phase}{chr(34)}',))}"
        for number, (phase, _) in texts.items()
    )
    frame = Frame(
        "Phases",
        "Each job's phase over time. Good: little yellow (no node) and light blue (starting); light blue between "
        "green is a restart of the gang.",
        "none",
        width=24,
        height=9,
        none=NO_OPERATOR,
    )
    return states(frame, Query(f"sum by (namespace, job) ({' or '.join(numbered)})", JOB_NAME), texts=texts)


def waiting() -> panels.Table:
    """A table of the jobs that wait."""
    since = JOBS.newest("gvm_job_waiting_since_timestamp_seconds", *EACH_JOB)
    phase = f"{JOBS.newest('gvm_job_phase', *EACH_JOB, 'phase', where=(_WAITING,))} == 1"
    frame = Frame(
        "Waiting jobs",
        "Jobs without a running learner, and for how long; Pending lacks nodes, Starting lacks servers. GVMJobWaiting "
        "fires for long ones; `gvm status` says what they wait for.",
        "none",
        none="no job waits",
    )
    columns = {"namespace": "namespace", "job": "job", "phase": "phase", "Value": "waits for"}
    table = rows(frame, Query(f"time() - {since} + on (namespace, job) group_right () 0 * ({phase})"), columns=columns)
    return column(column(table, "waits for", unit=panels.SECONDS), "job", link=OPEN)


def restarts() -> panels.Lines:
    """Restarts of each job."""
    return lines(
        Frame(
            "Restarts",
            "Restarts of each job's learner so far; a job fails when it exceeds runPolicy.backoffLimit. Good: flat.",
            panels.COUNT,
            none=NO_OPERATOR,
        ),
        Query(JOBS.newest("gvm_job_restarts", *EACH_JOB), JOB_NAME),
        low=0,
    )


def progress() -> tuple[panels.Lines, ...]:
    """Iterations, accuracy and speed of each job."""
    done = f"{JOBS.newest('gvm_job_iteration', *EACH_JOB)} / {JOBS.newest('gvm_job_max_iterations', *EACH_JOB)}"
    return (
        lines(
            Frame(
                "Iterations done",
                "Share of each job's iterations. Good: rising; level means paused, waiting, or stuck.",
                panels.SHARE,
                none=NO_OPERATOR,
            ),
            Query(done, JOB_NAME),
            low=0,
            high=1,
        ),
        lines(
            Frame(
                "Accuracy",
                "Held-out accuracy of each job on its first evaluation set. Comparable between jobs of the same set "
                "only.",
                panels.SHARE,
                none="no evaluation yet",
            ),
            Query(JOBS.newest("gvm_job_accuracy", *EACH_JOB), JOB_NAME),
            low=0,
            high=1,
        ),
        lines(
            Frame(
                "Tokens of each job",
                "Response tokens a second while sampling, last iteration, as the learners say it. A running job "
                "without a line is not scraped.",
                panels.TOKENS_PER_SECOND,
                none="no data: are the learners scraped?",
            ),
            Query(JOBS.newest("gvm_tokens_per_second", *EACH_JOB), JOB_NAME),
            low=0,
        ),
    )
