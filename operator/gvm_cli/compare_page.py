"""The comparison of groups of runs as plots and as one HTML page. Pure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gvm_cli.charts import in_percent, in_short, whole_numbers
from gvm_cli.compare_tables import METHOD, caption, result_table, run_table
from gvm_cli.comparison import Comparison, Overlay, iterations, overlay
from gvm_cli.page import definitions, page, paragraph, plots, section, table
from gvm_cli.plots import MUTED, SERIES, Plot, add_legend, finished, new_figure
from gvm_cli.report_summary import total_samples
from gvm_cli.run_groups import Group
from gvm_cli.seed_statistics import mean_half
from gvm_cli.verdicts import verdicts

_JUST_BEYOND = 1.02
"""Last evaluations of runs that cost a little more than the cheapest have dots as well."""


def comparison_plots(groups: Sequence[Group], comparison: Comparison) -> list[Plot]:
    """Accuracy by tokens, samples and iterations."""
    about = "Mean over seeds with its 95% Student-t interval; dots are the single runs' evaluations."
    return finished(
        (
            "by_tokens",
            "Accuracy by generated tokens",
            f"{about} Of all stages, up to the smallest total of all runs. The dashed line is "
            f"{comparison.baseline}'s best.",
            _figure(groups, comparison.by_tokens, "generated tokens", comparison.best),
        ),
        (
            "by_samples",
            "Accuracy by samples",
            about,
            _figure(groups, overlay(groups, total_samples), "samples drawn"),
        ),
        (
            "by_iteration",
            "Accuracy by iteration",
            about,
            _figure(groups, overlay(groups, iterations), "iteration"),
        ),
    )


def render(groups: Sequence[Group], comparison: Comparison, drawn: Sequence[Plot], notes: Sequence[str]) -> str:
    """The comparison as HTML."""
    labels = " and ".join(group.label for group in groups) if len(groups) < 3 else f"{len(groups)} groups"
    spec = groups[0].runs[0].job.spec
    about = f"accuracy on {comparison.evaluation_set} · model {spec.model.path} · data {spec.dataset.path}"
    return page(
        f"Comparison of {labels}",
        paragraph(f"{about} · algorithm {spec.algorithm.name}", kind="muted"),
        *(paragraph(text, kind="lead") for text in verdicts(comparison)),
        *(paragraph(note, kind="remark") for note in notes),
        section(
            "At equal tokens",
            table(result_table(comparison), kind="numbers"),
            paragraph(caption(comparison), kind="note"),
            plots(drawn[:1], size="wide"),
            plots(drawn[1:]),
        ),
        section("Runs", table(run_table(groups, comparison), kind="numbers")),
        section("How it was compared", definitions(METHOD)),
    )


def _figure(groups: Sequence[Group], shown: Overlay, x_label: str, best: float | None = None) -> Figure:
    """The main figure has the baseline's best in it, and is wide."""
    figure, (axes,) = new_figure(x=x_label, y="accuracy", size="normal" if best is None else "wide")
    for place, (group, curves, (cost, accuracy)) in enumerate(zip(groups, shown.curves, shown.points, strict=True)):
        colour = SERIES[place % len(SERIES)]
        mean, half = mean_half(curves)
        if not np.isnan(half).any():
            axes.fill_between(shown.x, mean - half, mean + half, color=colour, alpha=0.16, linewidth=0)
        axes.plot(shown.x, mean, color=colour, label=f"{group.label} ({len(group.runs)})")
        shared = cost <= shown.x[-1] * _JUST_BEYOND
        axes.plot(cost[shared], accuracy[shared], color=colour, linestyle="", marker="o", markersize=3, alpha=0.6)
    if best is not None:
        axes.axhline(best, color=MUTED, linewidth=1, linestyle="--")
    accuracies = np.concatenate([accuracy[cost <= shown.x[-1] * _JUST_BEYOND] for cost, accuracy in shown.points])
    # By the runs themselves: the band of two seeds would leave nothing to see.
    margin = 0.08 * max(float(np.ptp(accuracies)), 0.02)
    axes.set_ylim(max(0.0, float(accuracies.min()) - margin), min(1.0, float(accuracies.max()) + margin))
    axes.xaxis.set_major_locator(whole_numbers(6))
    axes.xaxis.set_major_formatter(in_short() if shown.x[-1] >= 10_000 else FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(in_percent())
    add_legend(axes)
    return figure
