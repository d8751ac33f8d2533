"""What a whole dashboard has besides its panels: variables, links, annotations, layout. Knows no metric's meaning."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from gvm_metrics.dashboards.panels import SOURCE

TRAINING, FLEET, OPERATOR = "gvm-training", "gvm-fleet", "gvm-operator"
"""uids: links and bookmarks hold on to them."""

_TITLES = {TRAINING: "GVM training", FLEET: "GVM fleet", OPERATOR: "GVM operator"}


class Row(NamedTuple):
    """A titled part of a dashboard; its panels' widths fill lines of 24."""

    title: str
    panels: Sequence[Builder[models.Panel]]


class Annotation(NamedTuple):
    """Moments that are marked in all panels: those at which the query has a value."""

    name: str
    expr: str
    color: str


class Board(NamedTuple):
    """One dashboard."""

    uid: str
    says: str
    variables: Sequence[Builder[models.VariableModel]]
    rows: Sequence[Row]
    annotations: Sequence[Annotation]
    span: str = "now-6h"
    """What it shows when it is opened."""

    def text(self) -> str:
        """The JSON that Grafana reads."""
        return json.dumps(_built(self), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def datasource() -> builders.DatasourceVariable:
    """Which Prometheus."""
    return builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def label_values(name: str, title: str, query: str) -> builders.QueryVariable:
    """A variable whose values are those of a label, read anew with the time range."""
    variable = builders.QueryVariable(name).label(title).datasource(SOURCE)
    variable.query({"query": query, "refId": f"Prometheus-{name}"}).sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)


def any_of(variable: builders.QueryVariable) -> builders.QueryVariable:
    """The same with several values, at first all."""
    every = models.VariableOption(selected=True, text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".*").current(every)


def window() -> builders.IntervalVariable:
    """The time over which figures are averaged that change once an iteration: by default a 20th of what is shown."""
    auto = models.VariableOption(selected=True, text="auto", value="$__auto_interval_window")
    variable = builders.IntervalVariable("window").label("Averaged over").values("2m,5m,15m,30m,1h,3h,6h,12h")
    variable.description("Of figures that change once an iteration; choose more than an iteration takes.")
    return variable.auto(True).step_count(20).min_interval("2m").current(auto)


def url(uid: str, *, job: bool = False) -> str:
    """Address of another dashboard with this one's source; with `job` that of the job in a table's row."""
    one = "&var-namespace=${__data.fields.namespace}&var-job=${__data.fields.job}&${__url_time_range}"
    return f"/d/{uid}?${{datasource:queryparam}}{one if job else ''}"


def _built(board: Board) -> models.Dashboard:
    found = builders.Dashboard(_TITLES[board.uid]).uid(board.uid).description(board.says).tags(["gvm"]).editable()
    found.time(board.span, "now").refresh("30s").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    for variable in board.variables:
        found.with_variable(variable)
    for uid in _TITLES:
        if uid != board.uid:
            found.link(_link(uid))
    found.annotations([_annotation(annotation) for annotation in board.annotations])
    for row in board.rows:
        found.with_row(builders.Row(row.title))
        for panel in row.panels:
            found.with_panel(panel)
    built = found.build()
    for number, each in enumerate(built.panels or [], start=1):
        each.id_val = number
    return built


def _link(uid: str) -> builders.DashboardLink:
    link = builders.DashboardLink(_TITLES[uid]).type(models.DashboardLinkType.LINK).icon("dashboard")
    return link.url(url(uid)).keep_time(True).include_vars(False)


def _annotation(annotation: Annotation) -> builders.AnnotationQuery:
    query = builders.AnnotationQuery().name(annotation.name).datasource(SOURCE).enable(True)
    return query.icon_color(annotation.color).expr(annotation.expr)
