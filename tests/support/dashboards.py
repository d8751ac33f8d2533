"""What a chart's dashboards and alerts find in a Prometheus that has watched something."""

import functools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python

from gvm_api import yaml_format
from gvm_metrics.dashboards.substitution import Target, View

CHART = Path(__file__).parents[2] / "charts/gvm-operator"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A time that a Prometheus has seen (Unix seconds), and the dashboard's variables for it."""

    prometheus: Any
    start: float
    end: float
    variables: dict[str, str]

    @property
    def view(self) -> View:
        """How a dashboard looks at it."""
        return View(values=self.variables, seconds=self.end - self.start, step=1, scrape=1)

    def series(self, expr: str, *, is_instant: bool = False) -> list[dict[str, Any]]:
        """The answer to PromQL with its variables filled in."""
        query = self.view.fill(expr)
        if is_instant:
            found = self.prometheus.ask("query", query=query, time=self.end)["result"]
            return [{"metric": each["metric"], "values": [each["value"]]} for each in found]
        answer = self.prometheus.ask("query_range", query=query, start=self.start, end=self.end, step=1)
        return list(answer["result"])

    def without_numbers(self, wanted: Iterable[Target]) -> list[str]:
        """The targets that would be empty, by panel, with the query that was asked."""
        return [
            f"{target.panel} ({target.legend or target.ref_id}): {self.view.fill(target.expr)}"
            for target in wanted
            if not _has_numbers(self.series(target.expr, is_instant=target.is_instant))
        ]


def _has_numbers(series: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(value)) for each in series for _, value in each["values"])


def board(name: str) -> dict[str, Any]:
    """A dashboard as the chart ships it."""
    found: dict[str, Any] = json.loads((CHART / f"dashboards/{name}.json").read_text())
    return found


@functools.cache
def alert_groups() -> list[dict[str, Any]]:
    """The groups of the chart's PrometheusRule, as a file of rules has them."""
    with helm_python.Chart.load(CHART) as chart:
        values = {"watchNamespaces": ["research"], "monitoring": {"prometheusRule": {"enabled": True}}}
        rendered = chart.render(values, name="gvm-operator", namespace="gvm-system")
    (text,) = (text for path, text in rendered.items() if path.endswith("prometheusrule.yaml"))
    found: list[dict[str, Any]] = next(iter(yaml_format.load_all(text)))["spec"]["groups"]
    return found


def rules() -> Iterator[dict[str, Any]]:
    """The alerts."""
    for group in alert_groups():
        yield from group["rules"]
