"""The allocator's Prometheus metrics: one registry a process, labels namespace and job, never a prompt.

Knows the wire's answers, not how they came about. That a repeated mutation is not counted again is the
routes' care.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gvm_api.wire import ObserveRequest, Plan, Progress

_LABELS = ("namespace", "job")
_SIZES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counters and gauges of every job that this process serves."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, (*_LABELS, *more), registry=self._registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, _LABELS, registry=self._registry)

        self._samples = counter("gvm_samples_total", "Samples drawn.", "stage")
        self._accepted = counter("gvm_accepted_samples_total", "Samples that the verifier accepted.")
        self._unjudged = counter("gvm_unjudged_samples_total", "Samples without a verdict (timeout or error).")
        self._tokens = counter("gvm_response_tokens_total", "Response tokens of all samples.")
        self._budget = counter("gvm_allocation_budget_samples_total", "Second-stage samples planned.")
        self._floor = counter("gvm_allocation_floor_hits_total", "Prompts planned at minSamples.")
        self._cap = counter("gvm_allocation_cap_hits_total", "Prompts planned at maxSamples.")
        self._sizes = Histogram(
            "gvm_allocation_sample_size",
            "Samples planned for a prompt.",
            _LABELS,
            buckets=_SIZES,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "gvm_plan_seconds", "Time to make a plan.", _LABELS, buckets=_SECONDS, registry=self._registry
        )
        self._variance = gauge("gvm_predicted_variance", "Predicted gradient variance of the newest plan.")
        self._uniform = gauge("gvm_predicted_variance_uniform", "The same of the uniform plan with its budget.")
        self._iteration = gauge("gvm_iteration", "Iteration that the learner is in.")
        self._max_iterations = gauge("gvm_max_iterations", "Iterations of the whole run.")
        self._step = gauge("gvm_step", "Optimiser steps taken.")
        self._accuracy = gauge("gvm_accuracy", "Accuracy on the first held-out set.")
        self._accept_rate = gauge("gvm_accept_rate", "Accepted share of the newest iteration's samples.")
        self._speed = gauge("gvm_samples_per_second", "Samples drawn per second.")
        self._reduction = gauge("gvm_variance_reduction", "Realised variance of uniform over that of the plan.")

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def observed(self, job: str, request: ObserveRequest) -> None:
        """Count a new observation."""
        labels, outcomes = (self._namespace, job), request.outcomes
        self._samples.labels(*labels, request.stage).inc(sum(o.num_samples for o in outcomes))
        self._accepted.labels(*labels).inc(sum(o.num_accepted for o in outcomes))
        self._unjudged.labels(*labels).inc(sum(o.num_unjudged for o in outcomes))
        self._tokens.labels(*labels).inc(sum(o.num_tokens for o in outcomes))

    def planned(self, job: str, plan: Plan, seconds: float) -> None:
        """Count a new plan that took `seconds`."""
        labels = (self._namespace, job)
        self._budget.labels(*labels).inc(sum(plan.sample_sizes))
        self._floor.labels(*labels).inc(plan.num_at_floor)
        self._cap.labels(*labels).inc(plan.num_at_cap)
        self._seconds.labels(*labels).observe(seconds)
        self._variance.labels(*labels).set(plan.predicted_variance)
        self._uniform.labels(*labels).set(plan.predicted_variance_uniform)
        sizes = self._sizes.labels(*labels)
        for size in plan.sample_sizes:
            sizes.observe(size)

    def progressed(self, job: str, progress: Progress) -> None:
        """Show what the learner says; what it leaves out stays as it was."""
        for gauge, value in (
            (self._iteration, progress.iteration),
            (self._max_iterations, progress.max_iterations),
            (self._step, progress.step),
            (self._accuracy, progress.accuracy),
            (self._accept_rate, progress.accept_rate),
            (self._speed, progress.samples_per_second),
            (self._reduction, progress.variance_reduction),
        ):
            if value is not None:
                gauge.labels(self._namespace, job).set(value)
