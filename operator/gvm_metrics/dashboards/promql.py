"""PromQL as the dashboards write it: which series they look at, and the few forms of query they need.

Knows neither panels nor what a metric means. A process may be scraped under a new address after a restart, so
everything is aggregated over the labels that a scrape adds.
"""

from dataclasses import dataclass

WINDOW = "$window"
"""Time over which figures are averaged that change once an iteration."""

SCRAPES = "$__rate_interval"
"""The same for what changes all the time: as short as the scrapes allow."""

RANGE = "$__range"
"""All that the dashboard shows."""

EACH_JOB = ("namespace", "job")
JOB_NAME = "{{namespace}}/{{job}}"
"""Labels by which jobs are told apart, and how a legend names one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The jobs that a dashboard looks at.

    Example:
        Scope('job="$job"').newest("gvm_accuracy", "set") == 'max by (set) (gvm_accuracy{job="$job"})'
    """

    matchers: str

    def of(self, metric: str, *more: str) -> str:
        """The metric's series, by further matchers too."""
        return f"{metric}{{{', '.join((self.matchers, *more))}}}"

    def newest(self, metric: str, *by: str, where: tuple[str, ...] = ()) -> str:
        """A gauge."""
        return f"max{_by(by)}({self.of(metric, *where)})"

    def total(self, metric: str, *by: str, where: tuple[str, ...] = ()) -> str:
        """A gauge, summed over processes or jobs."""
        return f"sum{_by(by)}({self.of(metric, *where)})"

    def rate(self, metric: str, *by: str, over: str = WINDOW, where: tuple[str, ...] = ()) -> str:
        """A counter's increase a second."""
        return f"sum{_by(by)}(rate({self.of(metric, *where)}[{over}]))"

    def increase(self, metric: str, *by: str, over: str = WINDOW, where: tuple[str, ...] = ()) -> str:
        """A counter's increase."""
        return f"sum{_by(by)}(increase({self.of(metric, *where)}[{over}]))"

    def quantile(self, q: float, metric: str, *by: str, over: str = WINDOW) -> str:
        """A quantile of a histogram, named without its `_bucket`."""
        return f"histogram_quantile({q:g}, {self.rate(f'{metric}_bucket', 'le', *by, over=over)})"

    def mean(self, metric: str, *by: str, over: str = WINDOW) -> str:
        """The mean of a histogram's values."""
        return f"{self.rate(f'{metric}_sum', *by, over=over)} / {self.rate(f'{metric}_count', *by, over=over)}"


def hours(gauge: str, *by: str) -> str:
    """Integral of a gauge over the time that is shown, in hours, also where it was there for a part of it."""
    return f"sum{_by(by)}(sum_over_time(({gauge})[{RANGE}:$__interval])) * $__interval_ms / 3600000"


ONE_JOB = Scope('namespace="$namespace", job="$job"')
CHOSEN_NAMESPACES = Scope('namespace=~"$namespace"')


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""
