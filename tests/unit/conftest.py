"""What unit tests share, as fixtures; the fakes themselves are in tests/support."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pytest
import yaml
from admission import ApiServer
from cluster_in_memory import FakeCluster, FakeOperator, Manifest, new_job, new_pod

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def api_server() -> ApiServer:
    """The API server after `kubectl apply -f crds/`."""
    return ApiServer(yaml.safe_load((ROOT / "crds/gvmtrainingjobs.yaml").read_text()))


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Manifest]:
    """Makes a job's manifest."""
    return new_job


@pytest.fixture(scope="session")
def make_pod() -> Callable[..., Manifest]:
    """Makes a pod's manifest."""
    return new_pod


@pytest.fixture(scope="session")
def make_cluster() -> Callable[[], FakeCluster]:
    """Makes a cluster in memory."""
    return FakeCluster


@pytest.fixture(scope="session")
def make_operator() -> Callable[..., FakeOperator]:
    """Makes an operator that looks at a cluster in memory when it is told to."""
    return FakeOperator


@pytest.fixture
def cluster() -> FakeCluster:
    """An empty cluster in memory."""
    return FakeCluster()


@pytest.fixture
def operator(cluster: FakeCluster) -> FakeOperator:
    """An operator of that cluster."""
    return FakeOperator(cluster)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Any]]:
    """Serves with a `socketserver` until the test's end, and returns it."""
    served: list[tuple[BaseServer, threading.Thread]] = []

    def start(server: BaseServer) -> BaseServer:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.append((server, thread))
        return server

    yield start
    for server, thread in served:
        server.shutdown()
        server.server_close()
        thread.join()
