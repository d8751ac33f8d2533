"""How plans spread samples over prompts of different difficulty. Pure; knows neither HTML nor plots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gvm_cli.recorded_run import RecordedPlan
from gvm_cli.report_summary import Table
from gvm_metrics.catalogue import DIFFICULTIES

FloatArray = NDArray[np.float64]

_BOUNDS = [float(name.partition("-")[0]) for name in DIFFICULTIES[1:]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Of one plan, by class of the estimated accept rate, hardest first; shape (5,) each.

    A prompt without an estimate is in no class, so that shares may sum to less than 1.
    """

    prompts: FloatArray
    """Share of the prompts."""

    samples: FloatArray
    """Share of the samples, all stages."""

    mean_size: FloatArray
    """Mean n_i; NaN where a class has no prompt."""


def shares_by_difficulty(plan: RecordedPlan) -> Shares:
    """Share of prompts and samples in each class of the accept rate; see `DIFFICULTIES`."""
    rates, sizes = np.array(plan.accept_rates), np.array(plan.sample_sizes, dtype=float)
    is_known = ~np.isnan(rates)
    classes = np.digitize(rates[is_known], _BOUNDS)
    num_prompts = np.bincount(classes, minlength=len(DIFFICULTIES)).astype(float)
    num_samples = np.bincount(classes, weights=sizes[is_known], minlength=len(DIFFICULTIES))
    mean_size = np.divide(num_samples, num_prompts, out=np.full(len(DIFFICULTIES), np.nan), where=num_prompts > 0)
    return Shares(
        prompts=num_prompts / max(rates.size, 1),
        samples=num_samples / max(sizes.sum(), 1.0),
        mean_size=mean_size,
    )


def difficulty_table(plan: RecordedPlan) -> Table:
    """Header and a row for each class: who got how much of the budget."""
    shares = shares_by_difficulty(plan)
    rows = [
        (class_name(place), f"{prompts:.0%}", f"{samples:.0%}", "–" if np.isnan(mean) else f"{mean:.1f}")
        for place, (prompts, samples, mean) in enumerate(
            zip(shares.prompts, shares.samples, shares.mean_size, strict=True)
        )
    ]
    return [("estimated accept rate p", "prompts", "samples", "mean n_i"), *rows]


def class_name(place: int) -> str:
    """A class as a reader knows it: 0–20%."""
    low, high = (100 * float(bound) for bound in DIFFICULTIES[place].split("-"))
    return f"{low:.0f}–{high:.0f}%"


def share_at(plans: Sequence[RecordedPlan], bound: int) -> list[float]:
    """Share of the prompts whose second-stage size is a bound (minSamples or maxSamples); one entry a plan."""
    return [plan.main_sizes.count(bound) / max(len(plan.main_sizes), 1) for plan in plans]
