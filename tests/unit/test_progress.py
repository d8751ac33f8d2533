"""The learner's progress, read from allocators: small HTTP servers here.

there        the progress, asked for with the job's token
not yet      the learner has said nothing: it starts
not there    refused · another answer than progress · slow · nobody listens: an unknown, no error
many         no more than 32 requests at a time
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

import pytest

from gvm_api.wire import Progress
from gvm_operator.progress import ProgressReader


class Allocator(ThreadingHTTPServer):
    """Answers every GET with the same, and counts how many it had at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: bytes = b"{}"
        self.code = 200
        self.seconds = 0.0
        self.asked: list[tuple[str, str | None]] = []
        self.num_now = self.most = 0
        self.lock = Lock()


class Handler(BaseHTTPRequestHandler):
    server: Allocator

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked.append((self.path, self.headers.get("Authorization")))
            server.num_now += 1
            server.most = max(server.most, server.num_now)
        time.sleep(server.seconds)
        with server.lock:
            server.num_now -= 1
        self.send_response(server.code)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content)

    def log_message(self, *_: Any) -> None:
        """Not on the tests' output."""


@pytest.fixture
def allocator(serve: Callable[[Allocator], Allocator]) -> Allocator:
    return serve(Allocator())


def read(allocator: Allocator) -> Progress | None:
    return run(allocator, lambda reader: reader.read("ml", "a", "t0k3n"))


def run(allocator: Allocator, call: Callable[[ProgressReader], Coroutine[Any, Any, Any]]) -> Any:
    async def scene() -> Any:
        reader = ProgressReader(f"http://127.0.0.1:{allocator.server_port}/{{namespace}}/{{name}}")
        try:
            return await call(reader)
        finally:
            await reader.close()

    return asyncio.run(scene())


def test_progress_is_asked_for_with_the_job_s_token_and_given_as_it_is(allocator: Allocator) -> None:
    said = {"phase": "Running", "iteration": 3, "maxIterations": 20, "acceptRate": 0.25, "stage": "pilot"}
    allocator.content = json.dumps(said).encode()
    assert read(allocator) == Progress(phase="Running", iteration=3, max_iterations=20, accept_rate=0.25, stage="pilot")
    assert allocator.asked == [("/ml/a/v1/jobs/a/progress", "Bearer t0k3n")]


@pytest.mark.parametrize("code", [301, 401, 500, 503])
def test_an_allocator_that_refuses_is_an_unknown(allocator: Allocator, code: int) -> None:
    allocator.code, allocator.content = code, b'{"phase": "Running"}'
    assert read(allocator) is None


def test_a_learner_that_has_not_said_a_word_yet_is_starting(allocator: Allocator) -> None:
    allocator.code = 404
    allocator.content = b"""{"detail": "job 'a' is not registered; PUT /v1/jobs/a first"}"""
    assert read(allocator) == Progress(phase="Starting")


def test_a_404_of_somebody_else_is_an_unknown(allocator: Allocator) -> None:
    allocator.code, allocator.content = 404, b"<html>no such page</html>"
    assert read(allocator) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"null", b"[]", b"{}", b'{"phase": "Dancing"}', b'{"phase": "Running", "step": -1}', b"\xff"],
)
def test_an_answer_that_is_no_progress_is_an_unknown(allocator: Allocator, content: bytes) -> None:
    allocator.content = content
    assert read(allocator) is None


def test_a_figure_that_is_not_finite_arrives_as_what_it_is(allocator: Allocator) -> None:
    allocator.content = b'{"phase": "Running", "accuracy": "NaN", "realisedVarianceReduction": "-Infinity"}'
    progress = read(allocator)
    assert progress is not None
    assert progress.accuracy != progress.accuracy
    assert progress.realised_variance_reduction == float("-inf")


def test_nobody_listening_is_an_unknown() -> None:
    gone = Allocator()
    gone.server_close()
    assert read(gone) is None


def test_an_allocator_that_takes_too_long_is_an_unknown_after_three_seconds(allocator: Allocator) -> None:
    allocator.content, allocator.seconds = b'{"phase": "Running"}', 4.0
    began = time.monotonic()
    assert read(allocator) is None
    assert 2.5 < time.monotonic() - began < 3.9


def test_many_allocators_are_asked_at_once_but_no_more_than_32(allocator: Allocator) -> None:
    allocator.content, allocator.seconds = b'{"phase": "Running"}', 0.1

    async def all_of_them(reader: ProgressReader) -> list[Progress | None]:
        return await asyncio.gather(*(reader.read("ml", f"job-{n}", "t") for n in range(80)))

    assert run(allocator, all_of_them) == [Progress(phase="Running")] * 80
    assert 1 < allocator.most <= 32
    assert len({path for path, _ in allocator.asked}) == 80
