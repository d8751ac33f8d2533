"""Grafana's dashboards and docs/metrics.md: fresh, well formed, and of metrics that there are.

files      what `make generate` writes; the SDK is loaded by nothing else
shape      uids, ids, lines of the grid filled without overlap, links that lead somewhere, variables that exist
panels     title, how to read it, unit, words for no value, a legend of labels that the query keeps
queries    known metrics and labels only; every metric is shown somewhere; promtool can read each
page       every metric with its labels; a prometheus.yml that promtool accepts
"""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from needed import HAS_PROMETHEUS, NO_PROMETHEUS

from gvm_metrics import reference
from gvm_metrics.catalogue import ALLOCATOR, BY_PROCESS, LEARNER, OPERATOR
from gvm_metrics.dashboards import __main__ as command
from gvm_metrics.dashboards.promql import Scope, hours
from gvm_metrics.dashboards.substitution import View, panels, targets

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "charts/gvm-operator/dashboards"
NEEDS_PROMTOOL = pytest.mark.skipif(not HAS_PROMETHEUS, reason=NO_PROMETHEUS)
BOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in command.files().items()}
NAMES = sorted(BOARDS)
FAMILIES = {family.name: family for family in (*LEARNER, *ALLOCATOR, *OPERATOR)}
SCRAPED = {"namespace", "job", "role", "instance"}
UNITS = {"none", "short", "percentunit", "s", "Bps", "ops", "reqps", "sci"}
VIEW = View(values={"namespace": "default", "job": "a", "datasource": "prometheus"}, seconds=600, step=15, scrape=15)


def every_panel() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, board in BOARDS.items():
        for panel in panels(board):
            yield f"{name} {panel['title']}", panel


def every_query() -> Iterator[tuple[str, str]]:
    """Where it stands, and its PromQL: of panels, of variables, of annotations."""
    for name, board in BOARDS.items():
        for target in targets(board):
            yield f"{name} {target.panel} {target.ref_id}", target.expr
        for annotation in board["annotations"]["list"]:
            yield f"{name} {annotation['name']}", annotation["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found, variable
                yield f"{name} ${variable['name']}", found[1]


def metrics_of(expr: str) -> set[str]:
    """The metrics that PromQL names, by their catalogue's names."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    quoted = re.findall(r'__name__=~"([\w|]+)"', expr)
    named = {name for each in quoted for name in each.split("|")}
    named |= set(re.findall(r"\b(?:gvm_|vllm:)\w+|\bup\b", bare))
    return {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in named}


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_chart_holds_what_make_generate_writes(name: str) -> None:
    assert (FOLDER / name).read_text() == command.files()[name], "run `make generate`"


def test_the_chart_holds_no_other_dashboards() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == NAMES == ["fleet.json", "operator.json", "training.json"]


def test_the_command_writes_all_files_and_refuses_what_is_no_folder(tmp_path: Path, capsys: Any) -> None:
    assert command.main([str(tmp_path)]) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == command.files()
    assert command.main([str(tmp_path / "nowhere")]) == 2
    assert "an existing folder" in capsys.readouterr().err


def test_processes_do_not_load_what_only_the_dashboards_need() -> None:
    code = (
        "import sys, gvm_metrics.registry, gvm_metrics.reference, gvm_metrics.dashboards;"
        "print([m for m in sys.modules if m.startswith('grafana')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    importers = {
        path.relative_to(ROOT / "operator").parts[:2]
        for path in [*(ROOT / "operator").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]
        if "grafana_foundation_sdk" in path.read_text()
    }
    assert importers == {("gvm_metrics", "dashboards")}


# --- shape ------------------------------------------------------------------------------------------------------


def test_dashboards_can_be_told_apart_and_keep_their_addresses() -> None:
    assert {name: (board["uid"], board["title"]) for name, board in BOARDS.items()} == {
        "training.json": ("gvm-training", "GVM training"),
        "fleet.json": ("gvm-fleet", "GVM fleet"),
        "operator.json": ("gvm-operator", "GVM operator"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_what_grafana_needs(name: str) -> None:
    board = BOARDS[name]
    assert board["tags"] == ["gvm"]
    assert board["schemaVersion"] >= 36
    assert board["refresh"] == "30s"
    assert board["time"]["to"] == "now"
    ids = [panel["id"] for panel in board["panels"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles), "a title stands twice"


@pytest.mark.parametrize("name", NAMES)
def test_panels_fill_the_grid_without_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken.get(cell)}"
            taken[cell] = panel["title"]
    height = 1 + max(y for _, y in taken)
    assert len(taken) == 24 * height, "there are holes"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_dashboards_that_there_are(name: str) -> None:
    board, uids = BOARDS[name], {each["uid"] for each in BOARDS.values()}
    urls = [link["url"] for link in board["links"]]
    assert {url.split("?")[0].removeprefix("/d/") for url in urls} == uids - {board["uid"]}
    inside = re.findall(r'"url": "/d/([\w-]+)\?', json.dumps(board))
    assert set(inside) <= uids
    if name != "training.json":
        assert inside.count("gvm-training") >= 2, "jobs in tables lead to their own dashboard"
    for url in re.findall(r'"url": "(/d/[^"]*var-job[^"]*)"', json.dumps(board)):
        assert "var-namespace=${__data.fields.namespace}&var-job=${__data.fields.job}" in url


@pytest.mark.parametrize("name", NAMES)
def test_queries_use_the_dashboard_s_variables_and_no_others(name: str) -> None:
    board = BOARDS[name]
    built_in = {"__range", "__interval", "__interval_ms", "__rate_interval"}
    defined = {variable["name"] for variable in board["templating"]["list"]}
    exprs = [target.expr for target in targets(board)]
    used = {variable for expr in exprs for variable in re.findall(r"\$\{?(\w+)", expr)}
    assert used - built_in == defined - {"datasource"}
    assert next(iter(board["templating"]["list"]))["type"] == "datasource"


def test_what_a_training_dashboard_averages_over_is_chosen_by_the_user_and_at_first_by_the_range() -> None:
    (window,) = (v for v in BOARDS["training.json"]["templating"]["list"] if v["name"] == "window")
    assert (window["type"], window["auto"], window["auto_count"], window["auto_min"]) == ("interval", True, 20, "2m")
    assert window["current"]["value"] == "$__auto_interval_window"


# --- panels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "panel"), every_panel())
def test_a_panel_says_what_it_shows_and_how_to_read_it(where: str, panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert re.fullmatch(r"[A-Z].{10,}[.]", panel["description"], flags=re.DOTALL), where
    assert defaults["unit"] in UNITS or defaults["unit"].startswith("suffix:"), where
    assert len(defaults["noValue"]) > 5, where
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, where
    if panel["type"] in ("timeseries", "state-timeline"):
        assert panel["options"]["legend"]["showLegend"], where
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}", where
        assert target["format"] == {"table": "table", "heatmap": "heatmap"}.get(panel["type"], "time_series"), where
        assert target.get("instant", False) != target.get("range", False), where
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), where


def test_figures_that_can_be_good_or_bad_say_which() -> None:
    judged = [panel for _, panel in every_panel() if "Good: " in panel["description"]]
    assert len(judged) > 50


@pytest.mark.parametrize(("where", "panel"), every_panel())
def test_a_legend_names_labels_that_the_query_keeps(where: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
        kept |= set(re.findall(r'label_replace\(.*?, "(\w+)"', target["expr"]))
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, where
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert panel["type"] == "table" or len(set(legends)) == len(legends), where


# --- queries ----------------------------------------------------------------------------------------------------


def test_queries_name_metrics_that_there_are() -> None:
    for where, expr in every_query():
        named = metrics_of(expr)
        assert named, where
        assert named <= FAMILIES.keys() | reference.VLLM.keys() | {"up"}, where


def test_every_metric_of_ours_is_shown_somewhere() -> None:
    shown = set().union(*(metrics_of(expr) for _, expr in every_query()))
    assert shown == FAMILIES.keys() | reference.VLLM.keys() | {"up"}


def test_histograms_are_read_as_histograms_and_others_as_what_they_are() -> None:
    for where, expr in every_query():
        for name, suffix in re.findall(r"\b(gvm_\w+?)(_bucket|_sum|_count)?(?=[{\[ )])", expr):
            assert (FAMILIES[name].kind == "histogram") == bool(suffix), where
            if FAMILIES[name].kind != "gauge":
                called = re.search(rf"(\w+)\({name}{suffix}", expr)
                assert called, where
                assert called[1] in ("rate", "increase", "resets"), where


def test_queries_match_and_keep_labels_that_the_metrics_have() -> None:
    for where, expr in every_query():
        for name, matchers in re.findall(r"\b(gvm_\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\}", expr):
            matched = set(re.findall(r"(\w+)(?==~?\"|!=)", matchers))
            assert matched <= set(FAMILIES[name].labels) | SCRAPED, where
        known = {label for name in metrics_of(expr) & FAMILIES.keys() for label in FAMILIES[name].labels}
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expr))))
        assert kept <= known | SCRAPED | {"le"}, where


@NEEDS_PROMTOOL
def test_promtool_can_read_every_query(tmp_path: Path) -> None:
    rules = [{"record": "some:name", "expr": VIEW.fill(expr), "labels": {"at": at}} for at, expr in every_query()]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_variables_are_filled_in_as_grafana_does() -> None:
    view = View(values={"job": "a"}, seconds=3600, step=10, scrape=5)
    assert view.fill('rate(x{job="$job"}[$__rate_interval])') == 'rate(x{job="a"}[20s])'
    assert view.fill("y[$__range:$__interval] * $__interval_ms") == "y[3600s:10s] * 10000"
    assert view.fill("z[$window]") == "z[180s]"
    with pytest.raises(ValueError, match=r"\$namespace has no value"):
        view.fill("${namespace}")


def test_queries_are_put_together_as_prometheus_wants_them() -> None:
    scope = Scope('job="a"')
    assert scope.newest("x", "set") == 'max by (set) (x{job="a"})'
    assert scope.newest("x", where=('kind="b"',)) == 'max(x{job="a", kind="b"})'
    assert scope.quantile(0.9, "h", over="5m") == 'histogram_quantile(0.9, sum by (le) (rate(h_bucket{job="a"}[5m])))'
    assert scope.mean("h", over="5m") == 'sum(rate(h_sum{job="a"}[5m])) / sum(rate(h_count{job="a"}[5m]))'
    assert hours("x", "job") == "sum by (job) (sum_over_time((x)[$__range:$__interval])) * $__interval_ms / 3600000"


# --- page -------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_what_make_generate_writes() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == reference.text(), "run `make generate`"


def test_the_page_has_every_metric_under_its_process() -> None:
    page = reference.text()
    for process, families in BY_PROCESS.items():
        section = page.partition(f"\n## {process.capitalize()}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| (.*) \|$", section, flags=re.MULTILINE)
        assert [(name, kind, labels) for name, kind, labels, _, _ in rows] == [
            (family.name, family.kind, ", ".join(family.labels) or "–") for family in families
        ]
        assert all(unit and len(meaning) > 5 for _, _, _, unit, meaning in rows)


def page_s_configuration() -> dict[str, Any]:
    (block,) = re.findall(r"```yaml\n(.*?)```", reference.text(), flags=re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


@NEEDS_PROMTOOL
def test_promtool_accepts_the_page_s_prometheus_yml(tmp_path: Path) -> None:
    config = page_s_configuration()
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert config["scrape_configs"][0]["honor_labels"] is True
