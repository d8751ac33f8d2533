"""The allocator's HTTP routes. Each parses, calls `Jobs` and counts in the metrics; all else is elsewhere."""

import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from gvm_allocator.body_limit import BodyLimit
from gvm_allocator.jobs import Jobs, NotFoundError
from gvm_allocator.ledger import ConflictError
from gvm_allocator.metrics import Metrics
from gvm_allocator.store import Store
from gvm_api.base import Contract
from gvm_api.load import describe_problem
from gvm_api.wire import (
    LedgerTotals,
    ObserveRequest,
    ObserveResponse,
    Plan,
    PlanRequest,
    PosteriorRequest,
    PosteriorResponse,
    Progress,
    PromptPosterior,
    RegisterJob,
    Snapshot,
)

Tokens = str | Mapping[str, str]


def create_app(store: Store, token: Tokens, *, namespace: str = "default", max_body_bytes: int = 64 * 2**20) -> FastAPI:
    """The application.

    Args:
        store: where the jobs live; the caller closes it.
        token: the bearer token of all jobs, or of each by name.
        namespace: the metrics' label.
        max_body_bytes: larger request bodies are refused with 413.

    Raises:
        ValueError: a token is empty.
    """
    if not token or not (isinstance(token, str) or all(token.values())):
        raise ValueError("the bearer token is empty; set GVM_ALLOCATOR_TOKEN to a random string")
    # A body without a content type is JSON, too; the token keeps other sites' forms out.
    app = FastAPI(title="GVM allocator", version="1", redirect_slashes=False, strict_content_type=False)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    jobs, metrics = Jobs(store), Metrics(namespace)
    app.include_router(_job_routes(jobs, metrics, token))
    app.include_router(_probes(jobs, metrics))
    app.add_exception_handler(RequestValidationError, _invalid)
    for error, status in (
        (NotFoundError, 404),
        (ConflictError, 409),
        (ValueError, 422),
        (sqlite3.Error, 503),
    ):
        app.add_exception_handler(error, _refusal(status))
    return app


def _job_routes(jobs: Jobs, metrics: Metrics, token: Tokens) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{job}", dependencies=[Depends(_Bearer(token))])

    @router.put("")
    def register(job: str, body: RegisterJob) -> RegisterJob:
        jobs.register(job, body.allocation)
        return body

    @router.delete("", status_code=204)
    def forget(job: str) -> None:
        jobs.forget(job)

    @router.post("/observations", response_model=ObserveResponse)
    def observe(job: str, body: ObserveRequest) -> Response:
        answer = jobs.observe(job, body)
        if not answer.is_repeat:
            metrics.observed(job, body)
        return _json(answer)

    @router.post("/plans", response_model=Plan)
    def plan(job: str, body: PlanRequest) -> Response:
        started = time.perf_counter()
        made, is_repeat = jobs.plan(job, body)
        if not is_repeat:
            metrics.planned(job, made, time.perf_counter() - started)
        return _json(made)

    @router.get("/plans/{iteration}/{block}", response_model=Plan)
    def read_plan(job: str, iteration: int, block: int) -> Response:
        return _json(jobs.read_plan(job, iteration, block))

    @router.get("/posterior")
    def posterior(
        job: str,
        ids: Annotated[list[str] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1)] = 1000,
    ) -> list[PromptPosterior]:
        return jobs.posterior(job, ids, limit)

    @router.post("/posterior", response_model=PosteriorResponse)
    def known(job: str, body: PosteriorRequest) -> Response:
        return _json(PosteriorResponse(prompts=tuple(jobs.known(job, body.prompt_ids))))

    @router.get("/ledger")
    def ledger(job: str) -> LedgerTotals:
        return jobs.totals(job)

    @router.get("/snapshot", response_model=Snapshot)
    def snapshot(job: str) -> Response:
        return _json(jobs.snapshot(job))

    @router.put("/snapshot", status_code=204)
    def restore(job: str, body: Snapshot) -> None:
        jobs.restore(job, body)

    @router.get("/progress")
    def progress(job: str) -> Progress:
        return jobs.progress(job)

    @router.put("/progress")
    def report_progress(job: str, body: Progress) -> Progress:
        jobs.report_progress(job, body)
        metrics.progressed(job, body)
        return body

    return router


def _probes(jobs: Jobs, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @router.get("/readyz")
    def readyz() -> PlainTextResponse:
        jobs.ping()
        return PlainTextResponse("ok")

    @router.get("/metrics")
    def exposition() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


class _Bearer:
    """Lets a request through that carries the job's token."""

    def __init__(self, token: Tokens) -> None:
        self._token = token

    def __call__(self, job: str, request: Request) -> None:
        expected = self._token if isinstance(self._token, str) else self._token.get(job, "")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = secrets.compare_digest(given.encode(), expected.encode())
        if scheme.lower() != "bearer" or not expected or not is_right:
            raise HTTPException(
                401,
                f"the bearer token is not job {job!r}'s; send Authorization: Bearer $GVM_ALLOCATOR_TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )


def _json(answer: Contract) -> Response:
    # Serialised by the model: a variance may be infinite, which the framework's JSON refuses.
    return Response(answer.model_dump_json(), media_type="application/json")


def _refusal(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def respond(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 (the interface)
        return JSONResponse({"detail": str(error)}, status_code=status)

    return respond


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first fault, as one line that names field, value and fix."""
    assert isinstance(error, RequestValidationError)
    first = dict(error.errors()[0])
    if first["type"] == "json_invalid":
        return JSONResponse({"detail": f"body: is not JSON ({first['ctx']['error']}); send an object"}, 422)
    if first["loc"][0] == "body":
        first["loc"] = first["loc"][1:] or ("body",)
    kinds = request.scope["endpoint"].__annotations__.values()
    model = next((k for k in kinds if isinstance(k, type) and issubclass(k, Contract)), BaseModel)
    detail = describe_problem(model, first)
    if len(detail) > 600:  # it quotes the value, which may be the whole body
        detail = f"{detail[:300]} … {detail[-300:]}"
    return JSONResponse({"detail": detail}, 422)
