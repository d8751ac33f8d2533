"""The operator at work on a cluster in memory, in real time.

lives       of one job, by listings alone and by watches alone · of two at a time · deleted · made anew
refused     status 409, 404, 422 · creation 403, and when it is allowed again · an event · a kind that is not served
down        at the start · in the middle · for so long that nothing is known any more
faults      of ours, in one job's look
progress    read while the allocator is up, with the job's token · before an end is written · by a new operator
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from gvm_api.wire import Progress
from gvm_operator.cluster import ClusterError
from gvm_operator.controller import Controller
from gvm_operator.metrics import Metrics
from gvm_operator.network import Neighbours
from gvm_operator.reconcile import Operator
from gvm_operator.site import Images
from gvm_operator.tokens import token

KEY = b"0123456789abcdef"
STATUS = "GVMTrainingJob/status"
WORKING = Progress(phase="Running", iteration=3, max_iterations=20, step=12, accuracy=0.5)
DONE = Progress(phase="Succeeded", iteration=20, max_iterations=20, step=80, accuracy=0.9)


class FakeReader:
    """Allocators that all say the same."""

    def __init__(self, says: Progress | None = None) -> None:
        self.says = says
        self.asked: list[tuple[str, str, str]] = []
        self.is_closed = False

    async def read(self, namespace: str, name: str, token: str) -> Progress | None:
        self.asked.append((namespace, name, token))
        return self.says

    async def close(self) -> None:
        self.is_closed = True


class Scene:
    """A controller, and all that it has around it."""

    def __init__(self, cluster: Any, reader: FakeReader | None = None, *, resync_seconds: float = 0.05) -> None:
        self.cluster = cluster
        self.reader = reader or FakeReader()
        self.metrics = Metrics()
        self.controller = Controller(
            cluster,
            operator=Operator(images=Images(), neighbours=Neighbours(operator="gvm-system")),
            token_key=KEY,
            progress=self.reader,  # type: ignore[arg-type]
            metrics=self.metrics,
            num_workers=3,
            resync_seconds=resync_seconds,
            progress_seconds=0.05,
        )

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"gvm_{metric}", labels) or 0.0

    @property
    def num_looks(self) -> float:
        results = ("success", "error")
        return sum(self.count("operator_reconcile_total", result=result) for result in results)

    async def until(self, is_so: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"{self.cluster.log}, {[dict(o) for o in self.cluster.objects]}"
            await asyncio.sleep(0.01)

    async def until_phase(self, phase: str, name: str = "a", *, step: bool = False) -> None:
        def is_there() -> bool:
            if step:
                self.cluster.step()
                self.cluster.now = datetime.now(UTC)
            return bool(self.cluster.status(name).get("phase") == phase)

        await self.until(is_there)

    async def quiet(self, seconds: float = 0.3) -> None:
        """Let everything settle."""
        await asyncio.sleep(seconds)


@asynccontextmanager
async def at_work(scene: Scene) -> AsyncIterator[Scene]:
    await scene.controller.start()
    try:
        yield scene
    finally:
        await scene.controller.stop()


def play(scene: Scene, story: Callable[[Scene], Coroutine[Any, Any, None]]) -> Scene:
    async def whole() -> None:
        async with at_work(scene):
            await story(scene)

    asyncio.run(whole())
    return scene


@pytest.fixture
def cluster(make_cluster: Callable[[], Any]) -> Any:
    """A cluster whose clock is the machine's."""
    cluster = make_cluster()
    cluster.now = datetime.now(UTC)
    return cluster


# --- lives ------------------------------------------------------------------------------------------------------


def test_a_job_lives_its_life_by_listings_alone(cluster, make_job) -> None:
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        await scene.until_phase("Pending")
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)
        assert scene.count("job_phase", namespace="default", job="a", phase="Running") == 1
        scene.reader.says = DONE
        cluster.end("learner")
        await scene.until_phase("Succeeded", step=True)
        await scene.until(lambda: cluster.names("Deployment") == [])

    scene = play(Scene(cluster), story)
    assert cluster.status()["accuracy"] == 0.9
    reasons = [event["reason"] for event in cluster.events]
    assert reasons == ["Started", "Accepted", *reasons[2:-2], "LearnerRunning", "Complete"]
    assert sorted(reasons[2:-2]) == ["AllocatorReady", "RolloutReady"]
    assert len({event["metadata"]["name"] for event in cluster.events}) == len(reasons)
    assert scene.count("operator_reconcile_total", result="error") == 0
    assert scene.reader.is_closed


def test_what_a_watch_tells_is_looked_at_soon(cluster, make_job) -> None:
    async def story(scene: Scene) -> None:
        await scene.quiet()
        cluster.apply(make_job())
        scene.controller.saw(cluster.get("GVMTrainingJob", "default", "a"))
        await scene.until(lambda: cluster.names("Job") == ["a-learner-0"])
        await scene.until(lambda: cluster.status() != {})
        gone = cluster.get("Service", "default", "a-rollout")
        cluster.delete("Service", "default", "a-rollout")
        scene.controller.lost(gone)
        await scene.until(lambda: "a-rollout" in cluster.names("Service"))

    play(Scene(cluster, resync_seconds=1000), story)


def test_a_burst_of_news_is_one_look(cluster, make_job) -> None:
    async def story(scene: Scene) -> None:
        cluster.apply(make_job())
        await scene.quiet()
        before = scene.num_looks
        for _ in range(200):
            scene.controller.saw(cluster.get("GVMTrainingJob", "default", "a"))
        await scene.quiet()
        assert scene.num_looks - before <= 2

    play(Scene(cluster, resync_seconds=1000), story)


def test_a_job_that_lives_quietly_is_not_written_to(cluster, make_job) -> None:
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)
        await scene.quiet()
        version, log = cluster.job()["metadata"]["resourceVersion"], list(cluster.log)
        looks = scene.num_looks
        for _ in range(3):
            scene.controller.saw(cluster.get("GVMTrainingJob", "default", "a"))
            await scene.quiet()
        assert scene.num_looks > looks
        assert (cluster.job()["metadata"]["resourceVersion"], cluster.log) == (version, log)

    play(Scene(cluster), story)


def test_no_job_is_looked_at_before_all_is_listed(cluster, make_job) -> None:
    is_open = threading.Event()

    def fault(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("list", "PodDisruptionBudget"):  # the last
            assert is_open.wait(20)

    cluster.fault = fault
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        scene.controller.saw(cluster.get("GVMTrainingJob", "default", "a"))
        await scene.quiet()
        assert cluster.names("ConfigMap") == [], "it might be there already"
        is_open.set()
        await scene.until(lambda: cluster.names("ConfigMap") == ["a-job"])

    play(Scene(cluster), story)


def test_a_job_that_is_gone_leaves_no_series_and_one_made_anew_starts_afresh(cluster, make_job) -> None:
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)
        cluster.delete("GVMTrainingJob", "default", "a")
        await scene.until(lambda: scene.count("job_phase", namespace="default", job="a", phase="Running") == 0)
        scene.reader.says = None
        cluster.apply(make_job())
        await scene.until_phase("Running", step=True)
        assert cluster.status()["iteration"] == 0

    play(Scene(cluster), story)


# --- refused ----------------------------------------------------------------------------------------------------


def test_a_status_that_meets_a_newer_job_is_decided_anew(cluster, make_job) -> None:
    requests: list[tuple[str, str]] = []

    def fault(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("patch", STATUS) and (verb, kind) not in requests:
            cluster.edit("runPolicy", suspend=True)
        requests.append((verb, kind))

    cluster.apply(make_job())
    cluster.fault = fault

    async def story(scene: Scene) -> None:
        await scene.until(lambda: cluster.names("Deployment") == [] and cluster.status() != {})
        assert cluster.status()["phase"] == "Suspended", "as the newer job has it"
        assert scene.count("operator_reconcile_errors_total", reason="Conflict") == 1

    play(Scene(cluster, resync_seconds=1000), story)
    first = requests.index(("patch", STATUS))
    assert requests[first + 1] == ("get", "GVMTrainingJob")


def test_a_job_whose_status_is_refused_is_tried_again_later_and_holds_up_no_other(cluster, make_job) -> None:
    tries: list[float] = []

    def fault(verb: str, kind: str, name: str) -> None:
        if (verb, kind, name) == ("patch", STATUS, "a"):
            tries.append(time.monotonic())
            raise ClusterError(422, "Invalid", "status.iteration: must be an integer")

    for name in ("a", "b"):
        cluster.apply(make_job(name))
    cluster.fault = fault

    async def story(scene: Scene) -> None:
        await scene.until(lambda: len(tries) == 1)
        await scene.until_phase("Pending", "b")
        await scene.until(lambda: len(tries) == 3)
        assert scene.count("operator_reconcile_errors_total", reason="Invalid") >= 2
        assert scene.count("operator_reconcile_total", result="error") >= 2

    play(Scene(cluster, resync_seconds=1000), story)
    assert tries[1] - tries[0] > 0.9
    assert tries[2] - tries[1] > 1.8, "each wait is twice as long"


def test_a_job_that_is_deleted_while_its_status_is_written_is_let_go(cluster, make_job) -> None:
    def fault(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("patch", STATUS):
            cluster.delete("GVMTrainingJob", "default", "a")

    cluster.apply(make_job())
    cluster.fault = fault

    async def story(scene: Scene) -> None:
        await scene.until(lambda: cluster.names("GVMTrainingJob") == [])
        await scene.quiet()
        assert scene.count("operator_reconcile_total", result="error") == 0
        assert scene.count("job_phase", namespace="default", job="a", phase="Pending") == 0

    play(Scene(cluster), story)


def forbid(kind: str, name: str, tries: list[float]) -> Callable[[str, str, str], None]:
    def fault(verb: str, its_kind: str, its_name: str) -> None:
        if (verb, its_kind, its_name) == ("create", kind, name):
            tries.append(time.monotonic())
            raise ClusterError(403, "Forbidden", f"{kind} {name} is forbidden: exceeded quota: gpus, used: 8")

    return fault


def test_what_a_quota_forbids_is_in_the_status_and_made_when_it_is_allowed(cluster, make_job) -> None:
    tries: list[float] = []
    cluster.fault = forbid("Deployment", "a-rollout", tries)
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        await scene.until(lambda: cluster.condition("Accepted").get("reason") == "Refused")
        accepted = cluster.condition("Accepted")
        assert accepted["status"] == "False"
        assert accepted["message"] == (
            "Deployment a-rollout: Deployment a-rollout is forbidden: exceeded quota: gpus, used: 8"
        )
        assert cluster.status()["message"] == accepted["message"]
        assert cluster.names("Job") == ["a-learner-0"], "the rest is there"
        cluster.fault = lambda *_: None
        await scene.until(lambda: "a-rollout" in cluster.names("Deployment"))
        await scene.until(lambda: cluster.condition("Accepted")["status"] == "True")

    play(Scene(cluster), story)
    warnings = [event["reason"] for event in cluster.events if event["type"] == "Warning"]
    assert warnings == ["Refused"]


def test_a_refusal_that_lasts_is_one_transition_and_tried_again_at_longer_and_longer_intervals(
    cluster, make_job
) -> None:
    tries: list[float] = []
    cluster.fault = forbid("Deployment", "a-rollout", tries)
    cluster.apply(make_job())
    seen: list[Any] = []

    async def story(scene: Scene) -> None:
        for num_tries in (1, 2, 3):
            await scene.until(lambda n=num_tries: len(tries) >= n)
            await scene.quiet()
            seen.append(cluster.condition("Accepted"))

    play(Scene(cluster, resync_seconds=1000), story)
    assert seen[0] == seen[1] == seen[2]
    assert tries[1] - tries[0] > 0.9
    assert tries[2] - tries[1] > 1.8


def test_an_event_that_cannot_be_recorded_stops_nothing(cluster, make_job) -> None:
    def fault(verb: str, kind: str, name: str) -> None:
        if kind == "Event":
            raise ClusterError(403, "Forbidden", "events is forbidden")

    cluster.fault = fault
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)
        assert scene.count("operator_reconcile_total", result="error") == 0

    play(Scene(cluster), story)
    assert cluster.events == []


def test_a_kind_that_the_cluster_does_not_serve_is_done_without(cluster, make_job) -> None:
    def fault(verb: str, kind: str, name: str) -> None:
        if kind == "PodDisruptionBudget":
            raise ClusterError(404, "NotJson", "list PodDisruptionBudget: HTTP 404: 404 page not found")

    cluster.fault = fault
    cluster.apply(make_job(learner={"maxUnavailable": 0}))

    async def story(scene: Scene) -> None:
        await scene.until_phase("Pending")
        await scene.quiet()
        assert cluster.condition("Accepted")["status"] == "True"
        assert scene.count("operator_reconcile_errors_total", reason="NotJson") == 0
        assert scene.count("operator_last_resync_timestamp_seconds") > 0

    play(Scene(cluster), story)


# --- down -------------------------------------------------------------------------------------------------------


def test_an_api_server_that_is_down_at_the_start_is_waited_for(cluster, make_job) -> None:
    failures = iter(range(5))

    def fault(verb: str, kind: str, name: str) -> None:
        if verb == "list" and next(failures, None) is not None:
            raise ClusterError(0, "Unreachable", "the API server does not answer")

    cluster.fault = fault
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        await scene.until_phase("Pending")
        assert scene.count("operator_reconcile_errors_total", reason="Unreachable") == 5

    play(Scene(cluster), story)


def test_a_cluster_that_goes_away_for_a_while_is_taken_up_where_it_was(cluster, make_job) -> None:
    def down(verb: str, kind: str, name: str) -> None:
        raise ClusterError(503, "ServiceUnavailable", "overloaded")

    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)
        cluster.fault = down
        cluster.end("learner", 1)
        scene.controller.saw(cluster.job())
        await scene.quiet()
        assert cluster.status()["phase"] == "Running"
        cluster.fault = lambda *_: None
        await scene.until(lambda: cluster.condition("LearnerRunning")["reason"] == "Error" or cluster.step())

    play(Scene(cluster), story)


def test_what_is_known_is_stale_after_three_listings_and_half_a_minute_without_one(
    cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    controller = Scene(cluster, resync_seconds=60).controller
    assert (controller.seconds_since_resync, controller.is_stale) == (0.0, False)
    clock[0] += 3 * 60 + 30
    assert (controller.seconds_since_resync, controller.is_stale) == (210.0, False)
    clock[0] += 1
    assert controller.is_stale


def test_a_listing_makes_what_is_known_fresh_and_one_that_fails_half_way_does_not(cluster) -> None:
    def fault(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("list", "Pod"):
            raise ClusterError(500, "InternalError", "etcd")

    async def story(scene: Scene) -> None:
        await scene.quiet()
        await scene.until(lambda: scene.controller.seconds_since_resync < 0.2)
        cluster.fault = fault
        await scene.until(lambda: scene.controller.seconds_since_resync > 1)
        cluster.fault = lambda *_: None
        await scene.until(lambda: scene.controller.seconds_since_resync < 0.2)

    play(Scene(cluster), story)


# --- faults -----------------------------------------------------------------------------------------------------


def test_a_fault_of_ours_in_one_job_is_counted_and_stops_no_other(
    cluster, make_job, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(verb: str, kind: str, name: str) -> None:
        if (verb, kind, name) == ("create", "Service", "a-rollout"):
            raise KeyError("a fault of ours")

    cluster.fault = fault
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        await scene.until(lambda: scene.count("operator_reconcile_errors_total", reason="Bug") == 1)
        for name in ("b", "c", "d", "e"):
            cluster.apply(make_job(name))
        for name in ("b", "c", "d", "e"):
            await scene.until_phase("Pending", name)
        await scene.until(lambda: scene.count("operator_reconcile_errors_total", reason="Bug") == 2)
        cluster.fault = lambda *_: None
        await scene.until_phase("Pending")

    play(Scene(cluster), story)
    assert "default/a: the look failed" in caplog.text


def test_a_fault_of_ours_in_a_listing_does_not_end_the_listings(cluster, make_job) -> None:
    failures = iter([True])

    def fault(verb: str, kind: str, name: str) -> None:
        if verb == "list" and next(failures, False):
            raise KeyError("a fault of ours")

    cluster.fault = fault
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        await scene.until_phase("Pending")
        assert scene.count("operator_reconcile_errors_total", reason="Bug") == 1

    play(Scene(cluster), story)


# --- progress ---------------------------------------------------------------------------------------------------


def test_progress_is_asked_for_with_the_job_s_token_while_its_allocator_is_up(cluster, make_job) -> None:
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        await scene.until_phase("Pending")
        await scene.quiet()
        assert scene.reader.asked == [], "nobody is there to be asked"
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)
        scene.reader.says = WORKING.model_copy(update={"iteration": 4, "accuracy": 0.75})
        await scene.until(lambda: cluster.status()["accuracy"] == 0.75)
        scene.reader.says = None
        await scene.quiet()
        assert (cluster.status()["phase"], cluster.status()["iteration"]) == ("Running", 4), "as last heard"
        cluster.end("learner")
        scene.reader.says = DONE
        await scene.until_phase("Succeeded", step=True)
        await scene.until(lambda: cluster.active_pods() == [] or cluster.step())
        num_asked = len(scene.reader.asked)
        await scene.quiet()
        assert len(scene.reader.asked) == num_asked, "nobody is asked about what is finished"

    scene = play(Scene(cluster), story)
    assert set(scene.reader.asked) == {("default", "a", token(KEY, "default", "a"))}
    secret = cluster.get("Secret", "default", "a-allocator-token")
    assert secret["stringData"] == {"token": token(KEY, "default", "a")}


def test_a_new_operator_asks_for_progress_before_it_says_anything(cluster, make_job) -> None:
    cluster.apply(make_job())

    async def story(scene: Scene) -> None:
        scene.reader.says = WORKING
        await scene.until_phase("Running", step=True)

    play(Scene(cluster), story)
    version = cluster.job()["metadata"]["resourceVersion"]

    async def next_story(scene: Scene) -> None:
        await scene.until(lambda: scene.num_looks > 0)
        await scene.quiet()

    play(Scene(cluster, FakeReader(WORKING)), next_story)
    assert cluster.job()["metadata"]["resourceVersion"] == version, "nothing was lost, not even for a moment"


def test_stopping_leaves_no_task_behind(cluster, make_job) -> None:
    cluster.apply(make_job())

    async def whole() -> None:
        scene = Scene(cluster)
        async with at_work(scene):
            await scene.until_phase("Pending")
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        cluster.apply(make_job("b"))
        await scene.quiet()
        assert "status" not in cluster.job("b")

    asyncio.run(whole())
