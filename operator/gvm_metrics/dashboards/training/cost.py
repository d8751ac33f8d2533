"""Throughput, cost, and where the time goes. Knows what the figures mean, not how they are drawn."""

from gvm_metrics.dashboards import panels
from gvm_metrics.dashboards.boards import Row
from gvm_metrics.dashboards.panels import Frame, Query, bars, lines, stacked, states
from gvm_metrics.dashboards.promql import ONE_JOB as JOB
from gvm_metrics.dashboards.promql import RANGE


def rows() -> tuple[Row, Row]:
    """Both rows."""
    return (
        Row("Throughput and cost", (*_drawn(), *_spent())),
        Row("Where the time goes", (*_stages(), *_iterations())),
    )


def _drawn() -> tuple[panels.Lines, ...]:
    says = "The evaluations' are cost, too, but train nothing."
    return (
        stacked(
            Frame(
                "Samples drawn",
                f"A second, by stage, averaged over whole iterations, training included. {says}",
                panels.SAMPLES_PER_SECOND,
            ),
            Query(JOB.rate("gvm_samples_total", "stage"), "{{stage}}"),
        ),
        stacked(
            Frame(
                "Tokens generated",
                "Response tokens a second, by stage, averaged over whole iterations. Most of the cost of a sample. "
                f"{says}",
                panels.TOKENS_PER_SECOND,
            ),
            Query(JOB.rate("gvm_generated_tokens_total", "stage"), "{{stage}}"),
        ),
        stacked(
            Frame(
                "Prompt tokens",
                "A second, by stage; a prompt counts once a stage, since its samples share the prefill.",
                panels.TOKENS_PER_SECOND,
            ),
            Query(JOB.rate("gvm_prompt_tokens_total", "stage"), "{{stage}}"),
        ),
    )


def _spent() -> tuple[panels.Lines | panels.Bars, ...]:
    says = (
        "GPUs that a role holds × wall time, over the time that is shown; 0 on a CPU. A role holds its GPUs in the "
        "other's stages, too."
    )
    return (
        lines(
            Frame(
                "Speed of sampling",
                "Response tokens over the time in which they were drawn, last iteration. Good: steady; a fall with "
                "the same lengths points to the servers.",
                panels.TOKENS_PER_SECOND,
                width=6,
                height=8,
            ),
            Query(JOB.newest("gvm_tokens_per_second"), "tokens"),
            low=0,
        ),
        bars(
            Frame("GPU-hours by role", says, panels.GPU_HOURS, width=5, height=8),
            Query(_gpu_hours("role"), "{{role}}"),
        ),
        bars(
            Frame("GPU-hours by stage", says, panels.GPU_HOURS, width=7, height=8),
            Query(_gpu_hours("stage"), "{{stage}}"),
        ),
        lines(
            Frame(
                "Idle share",
                "Share of the last iteration in which a role had nothing to do. Good: low for the role with more "
                "GPUs. Servers idle: fewer servers, or fewer updates an iteration. Learner idle: more servers.",
                panels.SHARE,
                width=6,
                height=8,
            ),
            Query(JOB.newest("gvm_idle_fraction", "role"), "{{role}}"),
            low=0,
            high=1,
        ),
    )


def _gpu_hours(by: str) -> str:
    return f"{JOB.increase('gvm_gpu_seconds_total', by, over=RANGE)} / 3600"


def _stages() -> tuple[panels.Lines, panels.States]:
    return (
        stacked(
            Frame(
                "Time by stage",
                "Each stage's share of the time of whole iterations. Good: main and train take most of it. Much sync, "
                "evaluate or checkpoint: do them less often.",
                panels.SHARE,
                width=12,
                height=9,
            ),
            Query(f"{JOB.rate('gvm_stage_seconds_total', 'stage')} > 0", "{{stage}}"),
            is_share=True,
        ),
        states(
            Frame(
                "Current stage",
                "Which stage runs when, as scrapes see it: shorter ones may be missed. A bar without end is a hang, "
                "and an alert.",
                "none",
                width=12,
                height=9,
                none="no data",
            ),
            Query(JOB.newest("gvm_stage", "stage"), "{{stage}}"),
            texts={0: (" ", "transparent"), 1: ("runs", "blue")},
        ),
    )


def _iterations() -> tuple[panels.Lines, panels.Lines]:
    return (
        lines(
            Frame(
                "Time of an iteration",
                "The last one's wall time, and how long it is since one was done. Good: the second stays below the "
                "first; GVMJobStalled fires when it is several times as long.",
                panels.SECONDS,
                width=16,
            ),
            Query(JOB.newest("gvm_iteration_seconds"), "last iteration"),
            Query(f"time() - {JOB.newest('gvm_last_iteration_timestamp_seconds')}", "since then"),
            low=0,
        ),
        lines(
            Frame(
                "Optimiser steps",
                "Of the whole run. Good: updatesPerIteration more with each iteration; a step back is a restart from "
                "a checkpoint.",
                panels.COUNT,
            ),
            Query(JOB.newest("gvm_step"), "steps"),
            low=0,
        ),
    )
