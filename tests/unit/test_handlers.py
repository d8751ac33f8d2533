"""kopf's part, run by kopf itself against a small API server.

watches      every kind of children but budgets, by the jobs' label · the jobs themselves · one namespace or all
tells        what is there at the start · what comes, changes and goes
writes       nothing at all
life         the controller starts before and stops after · health by the age of the last listing
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import pytest
import yaml
from aiohttp import web

from gvm_operator import handlers
from gvm_operator.cluster import CHILD_KINDS, RESOURCES

WATCHED = {"GVMTrainingJob", *CHILD_KINDS} - {"PodDisruptionBudget"}
LABEL = "gvm.rlhflow.dev/job"


SERVED = {
    **RESOURCES,
    "Namespace": "api/v1/namespaces",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}


def split(kind: str) -> tuple[str, str]:
    """Group with version, and plural, of a kind, e.g. apps/v1 and deployments."""
    base, _, plural = SERVED[kind].rpartition("/")
    return base.split("/", 1)[1], plural


class FakeController:
    """Notes what it is told."""

    def __init__(self, *, seconds_since_resync: float = 1.5, is_stale: bool = False) -> None:
        self.said: list[str] = []
        self.seconds_since_resync, self.is_stale = seconds_since_resync, is_stale

    async def start(self) -> None:
        self.said.append("start")

    async def stop(self) -> None:
        self.said.append("stop")

    def saw(self, manifest: dict[str, Any]) -> None:
        self.said.append(f"saw {manifest['kind']} {manifest['metadata']['name']}")

    def lost(self, manifest: dict[str, Any]) -> None:
        self.said.append(f"lost {manifest['kind']} {manifest['metadata']['name']}")


class FakeApi:
    """Discovery, listings and watches; `tell` sends an event to those who watch a kind."""

    def __init__(self, objects: dict[str, list[str]]) -> None:
        self.objects = objects
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.watchers: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.loop: asyncio.AbstractEventLoop
        self.stop: asyncio.Event

    def tell(self, event: str, kind: str, name: str) -> None:
        said = {"type": event, "object": self.manifest(kind, name)}
        self.loop.call_soon_threadsafe(self.watchers[kind].put_nowait, said)

    def manifest(self, kind: str, name: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "ml", "uid": f"uid-{kind}-{name}", "resourceVersion": "5"}
        return {"apiVersion": split(kind)[0], "kind": kind, "metadata": {**metadata, "labels": {LABEL: "a"}}}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/")
        self.requests.append((request.method, path, dict(request.query)))
        versions = {split(kind)[0] for kind in SERVED}
        if path == "api":
            return web.json_response({"versions": ["v1"]})
        if path == "apis":
            groups = [version.split("/") for version in sorted(versions) if "/" in version]
            known = [{"name": g, "versions": [{"version": v}], "preferredVersion": {"version": v}} for g, v in groups]
            return web.json_response({"groups": known})
        if path.split("/", 1)[-1] in versions:
            return web.json_response({"resources": self.resources(path.split("/", 1)[1])})
        kind = next((kind for kind in SERVED if path.endswith("/" + split(kind)[1])), None)
        if kind is None or request.method != "GET":
            return web.json_response({"kind": "Status", "code": 404, "message": path}, status=404)
        return await self.watch(request, kind) if "watch" in request.query else self.list(kind)

    def resources(self, version: str) -> list[dict[str, Any]]:
        kinds = [kind for kind in SERVED if split(kind)[0] == version]
        return [
            {
                "name": split(kind)[1],
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": True,
                "verbs": ["list", "watch", "patch"],
                "shortNames": [],
                "categories": [],
            }
            for kind in kinds
        ]

    def list(self, kind: str) -> web.Response:
        items = [self.manifest(kind, name) for name in self.objects.get(kind, [])]
        head = {"apiVersion": split(kind)[0], "kind": f"{kind}List", "metadata": {"resourceVersion": "9"}}
        return web.json_response({**head, "items": items})

    async def watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue = self.watchers.setdefault(kind, asyncio.Queue())
        while True:
            event = await queue.get()
            await response.write(json.dumps(event).encode() + b"\n")


@contextmanager
def serving(api: FakeApi, kubeconfig: Path) -> Iterator[None]:
    """The API server, in a thread of its own: kopf would take its tasks for hung ones."""
    is_up = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", api.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.loop, api.stop = asyncio.get_running_loop(), asyncio.Event()
        content = {
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        kubeconfig.write_text(yaml.safe_dump(content))
        is_up.set()
        await api.stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert is_up.wait(30)
    try:
        yield
    finally:
        api.loop.call_soon_threadsafe(api.stop.set)
        thread.join()


def run(
    kubeconfig: Path,
    api: FakeApi,
    controller: FakeController,
    story: Callable[[], Awaitable[None]],
    **options: Any,
) -> None:
    """Let kopf run until the story is told."""

    async def whole() -> None:
        stop = asyncio.Event()
        operator = asyncio.create_task(
            kopf.operator(
                registry=handlers.registry(controller),  # type: ignore[arg-type]
                settings=handlers.settings(),
                standalone=True,
                stop_flag=stop,
                **options,
            )
        )
        try:
            await asyncio.wait_for(story(), timeout=30)
        finally:
            stop.set()
            await asyncio.wait_for(operator, timeout=30)

    with serving(api, kubeconfig):
        asyncio.run(whole())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def test_the_controller_is_told_of_all_that_is_there_comes_and_goes(kubeconfig: Path) -> None:
    api = FakeApi({kind: ["old"] for kind in RESOURCES})
    controller = FakeController()

    async def story() -> None:
        await until(lambda: len(controller.said) == 1 + len(WATCHED) and api.watchers.keys() == WATCHED)
        assert controller.said[0] == "start"
        assert set(controller.said[1:]) == {f"saw {kind} old" for kind in WATCHED}
        for event, kind in (("ADDED", "Pod"), ("MODIFIED", "GVMTrainingJob"), ("DELETED", "Job")):
            api.tell(event, kind, "new")
        await until(lambda: len(controller.said) == 4 + len(WATCHED))
        assert set(controller.said[-3:]) == {"saw Pod new", "saw GVMTrainingJob new", "lost Job new"}

    run(kubeconfig, api, controller, story, clusterwide=True)
    assert controller.said[-1] == "stop"
    assert {method for method, *_ in api.requests} == {"GET"}, "kopf leaves no annotation and no finalizer"
    looked_at = {path for _, path, query in api.requests if "watch" in query}
    assert looked_at == {RESOURCES[kind] for kind in WATCHED}


def test_only_children_of_jobs_in_the_namespaces_that_are_named_are_asked_for(kubeconfig: Path) -> None:
    api, controller = FakeApi({}), FakeController()

    async def story() -> None:
        await until(lambda: api.watchers.keys() == WATCHED)

    run(kubeconfig, api, controller, story, namespaces=["ml"])
    asked = [
        (path, query) for _, path, query in api.requests if path.rsplit("/", 1)[-1] != "v1" and path.count("/") > 2
    ]
    assert {path.split("namespaces/")[1] for path, _ in asked} == {f"ml/{split(kind)[1]}" for kind in WATCHED}
    for path, query in asked:
        assert query.get("labelSelector") == (None if path.endswith("gvmtrainingjobs") else LABEL), path


@pytest.mark.parametrize(("is_stale", "code"), [(False, 200), (True, 500)])
def test_an_operator_that_lists_nothing_any_more_is_not_healthy(kubeconfig: Path, is_stale: bool, code: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/healthz"
    found: list[Any] = []

    async def story() -> None:
        async with aiohttp.ClientSession() as http:
            while not found:
                try:
                    async with http.get(url) as response:
                        found.extend([response.status, await response.text()])
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)

    controller = FakeController(seconds_since_resync=1.5, is_stale=is_stale)
    run(kubeconfig, FakeApi({}), controller, story, clusterwide=True, liveness_endpoint=url)
    assert found[0] == code
    if code == 200:
        assert json.loads(found[1]) == {"seconds_since_resync": 1.5}
