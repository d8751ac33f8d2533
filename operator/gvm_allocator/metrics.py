"""The allocator's Prometheus metrics, by the names in `gvm_metrics.catalogue`.

Knows the wire's bodies and answers, not how they came about. That a repeated mutation is not counted again is the
routes' care. What the learner says of the run is not repeated here: the learner exports it itself.
"""

from typing import get_args

import numpy as np

from gvm_allocator.arrays import FloatArray, IntArray
from gvm_api.wire import ObserveRequest, Plan, PlanRequest
from gvm_metrics.catalogue import ALLOCATOR, DIFFICULTIES
from gvm_metrics.registry import Registry


class Metrics:
    """What is measured of every job that this process serves."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._registry = Registry(ALLOCATOR)

    def render(self) -> bytes:
        """The exposition text."""
        return self._registry.render()

    def registered(self, job: str) -> None:
        """Show every counter at 0: a rate over one that appears at 512 would miss the 512."""
        for stage in get_args(ObserveRequest.model_fields["stage"].annotation):
            self._registry.add("gvm_ledger_samples_total", 0, self._namespace, job, stage)
        for what in ("budget_samples", "floor_hits", "cap_hits"):
            self._registry.add(f"gvm_allocation_{what}_total", 0, self._namespace, job)
        for histogram in ("gvm_plan_seconds", "gvm_allocation_sample_size"):
            self._registry.observe(histogram, [], self._namespace, job)

    def observed(self, job: str, request: ObserveRequest) -> None:
        """Count a new observation."""
        num_samples = sum(outcome.num_samples for outcome in request.outcomes)
        self._registry.add("gvm_ledger_samples_total", num_samples, self._namespace, job, request.stage)

    def knows(self, job: str, num_prompts: int) -> None:
        """Show how many prompts have a posterior."""
        self._registry.set("gvm_allocation_known_prompts", num_prompts, self._namespace, job)

    def planned(self, job: str, request: PlanRequest, plan: Plan, seconds: float) -> None:
        """Count a new plan that took `seconds`."""
        registry, labels = self._registry, (self._namespace, job)
        registry.add("gvm_allocation_budget_samples_total", sum(plan.sample_sizes), *labels)
        registry.add("gvm_allocation_floor_hits_total", plan.num_at_floor, *labels)
        registry.add("gvm_allocation_cap_hits_total", plan.num_at_cap, *labels)
        registry.observe("gvm_plan_seconds", [seconds], *labels)
        sizes = np.array(plan.sample_sizes, dtype=np.int64)
        pilot = request.pilot_sizes or request.pooled_sizes
        if len(pilot) == sizes.size:
            sizes = sizes + np.array(pilot, dtype=np.int64)
        registry.observe("gvm_allocation_sample_size", sizes.tolist(), *labels)
        registry.set("gvm_allocation_gini", gini(sizes), *labels)
        self._show_shares(job, np.array(plan.accept_rates).clip(0, 1), sizes)

    def requested(self, method: str, route: str, code: int, seconds: float) -> None:
        """Count a request that was answered with `code` after `seconds`."""
        registry = self._registry
        registry.observe("gvm_allocator_request_seconds", [seconds], self._namespace, method, route, str(code))

    def _show_shares(self, job: str, accept_rates: FloatArray, sizes: IntArray) -> None:
        """Of samples and of prompts, by class of p. Every class has a value, so that a graph has no gaps."""
        num_classes = len(DIFFICULTIES)
        # Compared with the same decimals as the classes' names: 0.6 · 5 is below 3 in binary.
        bounds = np.array([float(name.split("-")[0]) for name in DIFFICULTIES[1:]])
        classes = np.searchsorted(bounds, accept_rates, side="right")
        samples = np.bincount(classes, weights=sizes, minlength=num_classes) / max(int(sizes.sum()), 1)
        prompts = np.bincount(classes, minlength=num_classes) / sizes.size
        for name, of_samples, of_prompts in zip(DIFFICULTIES, samples, prompts, strict=True):
            self._registry.set("gvm_allocation_sample_share", float(of_samples), self._namespace, job, name)
            self._registry.set("gvm_allocation_prompt_share", float(of_prompts), self._namespace, job, name)


def gini(sizes: IntArray) -> float:
    """The Gini coefficient of sizes ≥ 0, shape (m,): 0 where all are the same, near 1 where one has them all.

    Example:
        gini([1, 1, 2, 4]) = (2·(1·1 + 2·1 + 3·2 + 4·4) / 8 − 5) / 4 = 0.3125
    """
    total = int(sizes.sum())
    if not total:
        return 0.0
    ranked = np.sort(sizes)
    ranks = np.arange(1, sizes.size + 1)
    return float((2 * (ranks * ranked).sum() / total - (sizes.size + 1)) / sizes.size)
