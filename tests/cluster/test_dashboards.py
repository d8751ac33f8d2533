"""The fleet's and the operator's dashboards on a real operator, scraped by a real Prometheus: no empty panel.

One job runs, one waits, one has failed, one is paused; the operator meets a conflict. What the fleet's dashboard takes
from learners is tested on a real run (tests/integration).
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dashboards import Watched, board, rules

from gvm_metrics.dashboards.substitution import targets

ROOT = Path(__file__).parents[2]
GPUS = {
    "rollout": {"resources": {"limits": {"nvidia.com/gpu": 4}}},
    "learner": {"processesPerNode": 8, "resources": {"limits": {"nvidia.com/gpu": 8}}},
}


@dataclass(frozen=True, kw_only=True)
class Scene(Watched):
    """A namespace with jobs in four phases, as Prometheus saw it."""

    namespace: str

    def now(self, expr: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Values at the end, by these labels."""
        found = self.series(expr, is_instant=True)
        return {tuple(each["metric"].get(x, "") for x in labels): float(each["values"][0][1]) for each in found}


def conflicts(bench: Any, operator: Any) -> float:
    """Change a job and its pods so fast that the operator's view of it is old; how many errors it has met by then."""
    (pod, *_) = bench.live_pods("waits", "rollout")
    for number in range(20):
        bench.cluster.patch("GVMTrainingJob", bench.namespace, "waits", {"metadata": {"labels": {"n": str(number)}}})
        bench.set_pod(pod, conditions=[{"type": "Ready", "status": str(number % 2 == 0)}])
    return operator.metrics().get('gvm_operator_reconcile_errors_total{reason="Conflict"}', 0.0)


@pytest.fixture
def scene(
    bench: Any,
    operator: Any,
    allocator: Any,
    wait: Callable[..., Any],
    tmp_path: Path,
    run_prometheus: Callable[..., AbstractContextManager[Any]],
) -> Iterator[Scene]:
    target = {"targets": [f"127.0.0.1:{operator.metrics_port}"], "labels": {"namespace": "gvm-system", "pod": "one"}}
    with run_prometheus(tmp_path, [{"job_name": "o", "honor_labels": True, "static_configs": [target]}]) as prometheus:
        wait(lambda: prometheus.ask("query", query="up == 1")["result"], what="Prometheus has found the operator")
        start = time.time()
        bench.apply("runs", "waits", spec=GPUS)
        bench.apply("fails", spec={**GPUS, "runPolicy": {"backoffLimit": 0}})
        bench.apply("rests", spec={**GPUS, "runPolicy": {"suspend": True}})
        allocator.start("runs")
        allocator.report("runs", phase="Running", iteration=3, maxIterations=20, step=12, accuracy=0.61)
        bench.run_all("runs")
        bench.run_all("fails")
        bench.until_phase("runs", "Running")
        bench.until_phase("fails", "Running")
        bench.end_learner("fails", exit_code=1, message="out of luck")
        bench.until_phase("fails", "Failed")
        bench.until_phase("rests", "Suspended")
        wait(lambda: bench.status("runs").get("accuracy") == 0.61)
        bench.wait_for_pods("waits", "rollout", 2)
        first = wait(lambda: conflicts(bench, operator), within=60, what="the operator meets a conflict")
        time.sleep(2)  # the first makes the series; a rate needs it to rise
        wait(lambda: conflicts(bench, operator) > first, within=60, what="the operator meets another conflict")
        for number in range(8):  # a full listing, and some scrapes in which there is something to do
            allocator.report("runs", phase="Running", iteration=3, maxIterations=20, step=12 + number, accuracy=0.61)
            time.sleep(1)
        bench.until_phase("waits", "Pending")
        yield Scene(
            prometheus=prometheus,
            start=start,
            end=time.time(),
            variables={"namespace": ".*"},
            namespace=bench.namespace,
        )


def check_jobs(scene: Scene, table: dict[str, str]) -> None:
    """The table of jobs; its queries by their letter."""
    own, everybody = scene.namespace, ("runs", "waits", "fails", "rests")
    assert scene.now(table["A"], "namespace", "job", "phase", "policy") == {
        (own, "runs", "Running", "gvm"): 1,
        (own, "waits", "Pending", "gvm"): 1,
        (own, "fails", "Failed", "gvm"): 1,
        (own, "rests", "Suspended", "gvm"): 1,
    }
    assert scene.now(table["B"], "job") == {(name,): 3 * (name == "runs") for name in everybody}
    assert scene.now(table["D"], "job") == {("runs",): 0.61}, "the others have no accuracy yet"
    ran = scene.now(table["F"], "job")
    assert 5 < ran["runs",] < scene.view.seconds + 1  # stamps are whole seconds
    assert ran["fails",] < ran["runs",], "it has ended"
    assert scene.now(table["G"], "job") == {(name,): 16 * (name in ("runs", "waits")) for name in everybody}


def check_waiting(scene: Scene, waiting: str, hours: str) -> None:
    """The table of jobs that wait, and the GPU-hours that one of them has asked for."""
    since = scene.now(waiting, "job", "phase")
    assert since.keys() == {("waits", "Pending")}
    assert 5 < since["waits", "Pending"] < scene.view.seconds + 1
    assert scene.now(hours, "job")["waits",] == pytest.approx(16 * since["waits", "Pending"] / 3600, rel=0.3)


def check_alerts(scene: Scene) -> None:
    """A job has failed, and there were conflicts; nothing else is wrong."""
    firing = {rule["alert"]: scene.now(rule["expr"], "namespace", "job", "reason") for rule in rules()}
    assert firing.pop("GVMJobFailed") == {(scene.namespace, "fails", ""): 1}
    assert firing.pop("GVMOperatorReconcileErrors").keys() == {("gvm-system", "", "Conflict")}
    assert {alert: found for alert, found in firing.items() if found} == {}


def check_variables_and_annotations(scene: Scene, found: dict[str, Any]) -> None:
    for variable in (each for each in found["templating"]["list"] if each["type"] == "query"):
        assert variable["query"]["query"] == "label_values(gvm_job_phase, namespace)"
        assert scene.prometheus.ask("label/namespace/values", **{"match[]": "gvm_job_phase"}) == [scene.namespace]
    for annotation in found["annotations"]["list"]:
        assert {each["metric"]["job"] for each in scene.series(annotation["expr"])} <= {"fails"}


def test_no_panel_of_the_fleet_s_and_the_operator_s_dashboards_is_empty(scene: Scene) -> None:
    fleet = [each for each in targets(board("fleet")) if re.search(r"\bgvm_(job|operator)_", each.expr)]
    operator = list(targets(board("operator")))
    assert (len(fleet) > 20, len(operator) > 10) == (True, True)
    assert scene.without_numbers(fleet) == []
    assert scene.without_numbers(operator) == []

    panels = {each.panel: each.expr for each in fleet}
    check_jobs(scene, {each.ref_id: each.expr for each in fleet if each.panel == "Jobs"})
    check_waiting(scene, panels["Waiting jobs"], panels["GPU-hours by job"])
    assert scene.now(panels["Phases"], "job") == {("runs",): 3, ("waits",): 1, ("fails",): 6, ("rests",): 4}
    check_alerts(scene)
    for name in ("fleet", "operator"):
        check_variables_and_annotations(scene, board(name))
