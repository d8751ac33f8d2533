"""A dashboard's queries as Grafana sends them: variables filled in. For those who ask Prometheus without Grafana.

Knows the dashboards' JSON, not how they are made.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_AUTO_STEPS, _AUTO_LEAST_SECONDS = 20, 120
"""Of the variable `window` where it is auto: a 20th of what is shown, but no less."""


class Target(NamedTuple):
    """One query of a panel."""

    panel: str
    ref_id: str
    expr: str
    legend: str
    is_instant: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What a dashboard shows: values of its variables, and the time.

    Example:
        View(values={"job": "a"}, seconds=60, step=1, scrape=1).fill('x{job="$job"}[$__range]') == 'x{job="a"}[60s]'
    """

    values: Mapping[str, str]
    """Of the dashboard's own variables, `window` left out."""
    seconds: float
    """Length of the time that is shown."""
    step: float
    """Seconds between two points."""
    scrape: float
    """The data source's scrape interval (seconds)."""

    def fill(self, text: str) -> str:
        """The query with all variables filled in.

        Raises:
            ValueError: a variable has no value.
        """
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: self._value(found[1] or found[2]), text)

    def _value(self, name: str) -> str:
        known = {
            **self.values,
            "window": _seconds(max(_AUTO_LEAST_SECONDS, self.seconds / _AUTO_STEPS)),
            "__range": _seconds(self.seconds),
            "__interval": _seconds(self.step),
            "__interval_ms": f"{max(1, round(self.step)) * 1000}",
            "__rate_interval": _seconds(max(self.step + self.scrape, 4 * self.scrape)),
        }
        if name not in known:
            raise ValueError(f"${name} has no value; give one of values {sorted(self.values)}")
        return known[name]


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard's JSON, rows left out."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets(board: Mapping[str, Any]) -> Iterator[Target]:
    """Every query of a dashboard's JSON."""
    for panel in panels(board):
        for target in panel["targets"]:
            legend = target["legendFormat"].replace("__auto", "")
            yield Target(panel["title"], target["refId"], target["expr"], legend, target.get("instant", False))


def _seconds(number: float) -> str:
    return f"{max(1, round(number))}s"
