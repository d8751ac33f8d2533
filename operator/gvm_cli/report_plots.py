"""The plots of one run. Each function takes a Run and gives a figure, or None where nothing was measured."""

import math
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from gvm_cli.plots import INK, MUTED, SERIES, add_legend, new_figure
from gvm_cli.recorded_run import Run, number
from gvm_cli.report_summary import stage_seconds, total_samples

FloatArray = NDArray[np.float64]


def convergence(run: Run) -> Figure | None:
    """Accuracy of each evaluation set, by iteration (left) and by samples (right)."""
    if not run.evaluated:
        return None
    figure, plots = new_figure(y="accuracy", columns=2)
    _draw_accuracy(run, plots[0], by_samples=False)
    _draw_accuracy(run, plots[1], by_samples=True)
    return figure


def accuracy(run: Run, *, by_samples: bool) -> Figure | None:
    """Accuracy of each evaluation set by iteration, or by samples drawn."""
    if not run.evaluated:
        return None
    figure, (axes,) = new_figure(y="accuracy")
    _draw_accuracy(run, axes, by_samples=by_samples)
    return figure


def accept_rate(run: Run) -> Figure | None:
    """Acceptance rate, and the share of prompts whose samples give no gradient, by iteration."""
    labels = {"accept_rate": "accepted samples", "zero_gradient_fraction": "prompts without gradient"}
    series = {label: [number(line, key) for line in run.trained] for key, label in labels.items()}
    figure = _lines_figure(run, series, y="share")
    if figure is not None:
        figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1))
        figure.axes[0].set_ylim(0, 1)
    return figure


def variance(run: Run) -> Figure | None:
    """Gradient variance over the uniform plan's by iteration; below 1 the allocation gained."""
    keys = {"predicted": "predicted_variance", "realised": "realised_variance"}
    series = {
        label: [_ratio(number(line, key), number(line, f"{key}_uniform")) for line in run.trained]
        for label, key in keys.items()
    }
    figure = _lines_figure(run, series, y="variance / uniform's")
    if figure is not None:
        figure.axes[0].axhline(1, color=INK, linewidth=1, linestyle="--")
        figure.axes[0].set_ylim(bottom=0)
    return figure


def sample_sizes(run: Run) -> Figure | None:
    """How n_i is spread over prompts, by iteration: median, quartiles, 10th to 90th percentile."""
    if not run.plans:
        return None
    figure, (axes,) = new_figure(x="iteration", y="samples of a prompt")
    levels = np.array([np.percentile(plan.sample_sizes, [10, 25, 50, 75, 90]) for plan in run.plans])
    edges = _edges([plan.iteration for plan in run.plans])
    for low, high, alpha, label in ((0, 4, 0.2, "10–90 %"), (1, 3, 0.4, "25–75 %")):
        values = levels[:, high], levels[:, low]
        axes.stairs(values[0], edges, baseline=values[1], fill=True, color=SERIES[0], alpha=alpha, label=label)
    axes.stairs(levels[:, 2], edges, baseline=None, color=SERIES[0], label="median")
    means = [float(np.mean(plan.sample_sizes)) for plan in run.plans]
    axes.stairs(means, edges, baseline=None, color=INK, linestyle="--", linewidth=1, label="mean")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    add_legend(axes)
    return figure


def sizes_by_accept_rate(run: Run) -> Figure | None:
    """The last plan: n_i against the estimated acceptance rate, a point a prompt."""
    if not run.plans:
        return None
    plan = run.plans[-1]
    figure, (axes,) = new_figure(x=f"estimated accept rate, iteration {plan.iteration}", y="samples of a prompt")
    axes.scatter(plan.accept_rates, plan.sample_sizes, s=9, color=SERIES[0], alpha=0.5, linewidths=0)
    axes.axhline(float(np.mean(plan.sample_sizes)), color=INK, linewidth=1, linestyle="--", label="mean")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    add_legend(axes)
    return figure


def stage_times(run: Run) -> Figure | None:
    """Seconds of each stage of the loop by iteration, stacked."""
    stages = stage_seconds(run.trained)
    if not stages:
        return None
    figure, (axes,) = new_figure(x="iteration", y="seconds")
    edges = _edges([line["iteration"] for line in run.trained])
    below = np.zeros(len(run.trained))
    for index, (name, seconds) in enumerate(stages.items()):
        colour = MUTED if name == "other" else SERIES[index % len(SERIES)]
        axes.stairs(below + seconds, edges, baseline=below, fill=True, color=colour, label=name.replace("_", " "))
        below = below + seconds
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    add_legend(axes)
    return figure


def _draw_accuracy(run: Run, axes: Axes, *, by_samples: bool) -> None:
    for name, colour in zip(run.evaluation_sets, cycle(SERIES)):
        lines = [line for line in run.evaluated if name in line["eval"]]
        x = [total_samples(line) if by_samples else line["iteration"] for line in lines]
        y = [line["eval"][name]["accuracy"] for line in lines]
        axes.plot(x, y, color=colour, marker="o", markersize=3, label=name)
    axes.set_xlabel("samples drawn, pilot included" if by_samples else "iteration")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    if by_samples:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    add_legend(axes)


def _lines_figure(run: Run, series: dict[str, list[float]], *, y: str) -> Figure | None:
    """A line for each series that has a number at all; a dot an iteration where they are few."""
    measured = {label: values for label, values in series.items() if not np.isnan(values).all()}
    if not run.trained or not measured:
        return None
    figure, (axes,) = new_figure(x="iteration", y=y)
    iterations = [line["iteration"] for line in run.trained]
    marker = "o" if len(iterations) <= 40 else None
    for (label, values), colour in zip(measured.items(), SERIES, strict=False):
        axes.plot(iterations, values, color=colour, marker=marker, markersize=3, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    add_legend(axes)
    return figure


def _edges(iterations: list[int]) -> FloatArray:
    """Bounds of the bars that stand for `iterations`: halfway between neighbours."""
    centres = np.array(iterations, dtype=float)
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[centres[0] - 0.5], between, [centres[-1] + 0.5]])


def _ratio(value: float, of: float) -> float:
    return value / of if of > 0 else math.nan
