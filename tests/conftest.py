"""What every test may use: golden files, a Prometheus, Hypothesis without time limits; what is said at the end."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from needed import HAS_PROMETHEUS, NO_PROMETHEUS
from session_end import pytest_configure, pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary"]

# A busy machine is no fault of the code under test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Rewrite tests/golden from what the code gives now.")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with tests/golden/NAME, or rewrites the file with --update-golden."""
    folder = Path(__file__).parent / "golden"

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing; run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; if it should, run pytest --update-golden"

    return check


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class PrometheusServer:
    """A Prometheus of a test's own, with its data in a folder."""

    def __init__(self, folder: Path, scrape_configs: list[dict[str, Any]], port: int) -> None:
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        config = folder / "prometheus.json"  # which is YAML, too
        every_second = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config.write_text(json.dumps({"global": every_second, "scrape_configs": scrape_configs}))
        self._command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._is_ready():
            assert self._process.poll() is None, (self.folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "Prometheus is not ready in time"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer of the API, such as of `query_range`."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/-/ready", timeout=2).status_code == 200
        return False


@pytest.fixture(scope="session")
def run_prometheus() -> Callable[..., contextlib.AbstractContextManager[PrometheusServer]]:
    """Runs a Prometheus that scrapes every second: `with run_prometheus(folder, scrape_configs) as server`."""
    if not HAS_PROMETHEUS:
        pytest.skip(NO_PROMETHEUS)

    @contextlib.contextmanager
    def run(folder: Path, scrape_configs: list[dict[str, Any]]) -> Iterator[PrometheusServer]:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        server = PrometheusServer(folder, scrape_configs, port)
        try:
            server.start()
            yield server
        finally:
            server.stop()

    return run
