"""Prometheus collectors for the catalogue's metrics: one registry a process. Knows names, not values."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from gvm_metrics.catalogue import Family


class Registry:
    """The collectors of one process, by the names in the catalogue.

    Every method takes a metric's labels in the catalogue's order.

    Example:
        Registry(LEARNER).set("gvm_accuracy", 0.5, "default", "arithmetic", "heldout")
    """

    def __init__(self, families: Sequence[Family]) -> None:
        # A further series for each counter, which says when it began: nobody reads it, and it doubles their number.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self.prometheus = CollectorRegistry()
        self._counters = {f.name: self._counter(f) for f in families if f.kind == "counter"}
        self._gauges = {f.name: self._gauge(f) for f in families if f.kind == "gauge"}
        self._histograms = {f.name: self._histogram(f) for f in families if f.kind == "histogram"}

    def add(self, name: str, amount: float, *labels: str) -> None:
        """Count up; an amount of 0 makes the series appear."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def follow(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Have a gauge read its value whenever it is scraped."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set_function(read)

    def observe(self, name: str, values: Sequence[float], *labels: str) -> None:
        """Put values into a histogram."""
        histogram = self._histograms[name]
        own = histogram.labels(*labels) if labels else histogram
        for value in values:
            own.observe(value)

    def remove(self, name: str, *labels: str) -> None:
        """Drop a gauge's series, where it is there."""
        self._gauges[name].remove(*labels)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.prometheus)

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.meaning, family.labels, registry=self.prometheus)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.meaning, family.labels, registry=self.prometheus)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(family.name, family.meaning, family.labels, buckets=family.buckets, registry=self.prometheus)
