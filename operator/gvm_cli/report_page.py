"""The report of one run as one HTML page. Pure: a Run in, text out."""

from typing import Any

import yaml

from gvm_api.status import TERMINAL
from gvm_cli import report_plots, report_summary
from gvm_cli.page import page, paragraph, plots, preformatted, section, table
from gvm_cli.recorded_run import Run


def render(run: Run) -> str:
    """The report as HTML."""
    spec = run.job.spec
    facts = (
        spec.model.path,
        spec.algorithm.name,
        f"allocation {spec.allocation.policy}",
        f"seed {spec.algorithm.seed}",
    )
    return page(
        f"{run.job.metadata.name}: training report",
        paragraph(" · ".join(facts), muted=True),
        paragraph(report_summary.headline(run)),
        *(paragraph(remark) for remark in _remarks(run)),
        section("Accuracy", table(report_summary.accuracy_table(run), has_header=True), _accuracy_plots(run)),
        section("Samples and variance", _sampling_plots(run)),
        section("What it took", table(report_summary.cost_table(run), has_header=False)),
        section("Where the time went", table(report_summary.stage_table(run), has_header=True), _time_plot(run)),
        section("Job", preformatted(_job_yaml(run))),
    )


def _remarks(run: Run) -> list[str]:
    remarks = []
    if run.status.phase not in TERMINAL:
        remarks.append(f"The run has not ended ({run.status.phase}); this is how far it got.")
    if run.status.phase == "Failed":
        remarks.append(f"The run failed: {run.status.message or 'see its logs'}.")
    if run.num_unreadable:
        remarks.append(f"{run.num_unreadable} half-written records were left out.")
    return remarks


def _accuracy_plots(run: Run) -> str:
    return plots(
        (
            "Accuracy by iteration",
            "Share of held-out prompts answered correctly.",
            report_plots.accuracy(run, by_samples=False),
        ),
        (
            "Accuracy by samples",
            "The same against what it cost: all samples drawn for training, the pilot's too.",
            report_plots.accuracy(run, by_samples=True),
        ),
    )


def _sampling_plots(run: Run) -> str:
    return plots(
        (
            "Accept rate",
            "Share of training samples that were accepted, and of prompts whose samples carried no gradient.",
            report_plots.accept_rate(run),
        ),
        (
            "Gradient variance against the uniform plan",
            "Below the dashed line the allocation gained. Predicted: by the plan. Realised: measured afterwards.",
            report_plots.variance(run),
        ),
        (
            "Samples of a prompt",
            "Both stages. Bands hold the middle half and the middle four fifths of the prompts.",
            report_plots.sample_sizes(run),
        ),
        (
            "Where the last plan put its samples",
            "One point a prompt.",
            report_plots.sizes_by_accept_rate(run),
        ),
    )


def _time_plot(run: Run) -> str:
    return plots(("Time of each stage", "Wall time of an iteration, stacked.", report_plots.stage_times(run)))


def _job_yaml(run: Run) -> str:
    job = run.job.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
    return yaml.safe_dump(_without_env_values(job), sort_keys=False, allow_unicode=True)


def _without_env_values(value: Any) -> Any:
    """Reports are passed around, and an environment variable may hold a token."""
    if isinstance(value, list):
        return [_without_env_values(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: [{**entry, **({"value": "(hidden)"} if "value" in entry else {})} for entry in item]
        if key == "env" and isinstance(item, list)
        else _without_env_values(item)
        for key, item in value.items()
    }
