"""Carries out what `reconcile` decides: workers that look at one job at a time, full listings, progress.

Knows neither kopf nor what a job needs. Every error ends in a metric, a log line and another look, never in a dead
task; what the API server refuses ends in the job's status as well.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from gvm_api import names
from gvm_api.spec import KIND
from gvm_api.status import TERMINAL, JobStatus
from gvm_api.wire import Progress
from gvm_operator import events, job_status
from gvm_operator.cache import Cache, JobKey
from gvm_operator.cluster import CHILD_KINDS, Cluster, ClusterError
from gvm_operator.execution import Executor, status_patch
from gvm_operator.metrics import Metrics
from gvm_operator.observed import Manifest, Observed, is_ready
from gvm_operator.progress import ProgressReader
from gvm_operator.reconcile import Decision, Operator, desired, read_status
from gvm_operator.tokens import token
from gvm_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

_WAKE_SECONDS = 0.05
"""Events come in bursts; one look serves them all."""
_MAX_RETRY_SECONDS = 60.0
_STALE_RESYNCS = 3


class Controller:
    """One operator's work.

    Args:
        cluster: the API server.
        operator: what children depend on beside their job.
        token_key: key of the jobs' tokens.
        progress: reads learners' progress.
        metrics: what is counted.
        num_workers: jobs that are worked on at a time.
        resync_seconds: time between full listings.
        progress_seconds: time between two looks at a running job's progress.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        operator: Operator,
        token_key: bytes,
        progress: ProgressReader,
        metrics: Metrics,
        num_workers: int,
        resync_seconds: float,
        progress_seconds: float,
    ) -> None:
        self._cluster = cluster
        self._operator = operator
        self._token_key = token_key
        self._reader = progress
        self._metrics = metrics
        self._num_workers = num_workers
        self._resync_seconds = resync_seconds
        self._progress_seconds = progress_seconds
        self._cache = Cache()
        self._queue: WorkQueue[JobKey] = WorkQueue()
        self._progress: dict[JobKey, tuple[str, Progress | None]] = {}
        """What a learner said last, with the uid of its job: another of that name has said nothing yet."""
        self._failures: dict[JobKey, int] = {}
        self._unknown_kinds: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._resynced_at = time.monotonic()

    async def start(self) -> None:
        """Start the work; the first full listing comes before the first look at any job."""
        first = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._for_ever("resync", lambda: self._resync(first), self._resync_seconds)),
            asyncio.create_task(self._for_ever("progress", self._read_all_progress, self._progress_seconds)),
            *(asyncio.create_task(self._work(first)) for _ in range(self._num_workers)),
        ]

    async def stop(self) -> None:
        """End the work; what is half done is found and finished at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reader.close()

    def saw(self, manifest: Manifest) -> None:
        """A watch shows an object."""
        self._wake(self._cache.saw(manifest))

    def lost(self, manifest: Manifest) -> None:
        """A watch shows that an object is gone."""
        self._wake(self._cache.lost(manifest))

    @property
    def seconds_since_resync(self) -> float:
        """Age of the last full listing."""
        return time.monotonic() - self._resynced_at

    @property
    def is_stale(self) -> bool:
        """Whether full listings have been failing for too long to trust what is known."""
        return self.seconds_since_resync > _STALE_RESYNCS * self._resync_seconds + 30

    def _wake(self, key: JobKey | None) -> None:
        if key is not None:
            self._queue.add_after(key, _WAKE_SECONDS)
            self._metrics.due(len(self._queue))

    async def _for_ever(self, what: str, step: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        while True:
            pause = seconds
            try:
                await step()
            except ClusterError as error:
                logger.warning("%s failed: %s", what, error)
                self._metrics.failed(error.reason)
                pause = min(seconds, 5.0)
            except Exception:  # the outermost loop of this task: it must outlive a fault of ours
                logger.exception("%s failed", what)
                self._metrics.failed("Bug")
            await asyncio.sleep(pause)

    async def _resync(self, first: asyncio.Event) -> None:
        for kind in (KIND, *CHILD_KINDS):
            try:
                listing = await asyncio.to_thread(self._cluster.list, kind)
            except ClusterError as error:
                if error.code != 404:
                    raise
                if kind not in self._unknown_kinds:
                    logger.warning("the API server does not serve %s; jobs go without", kind)
                    self._unknown_kinds.add(kind)
                continue
            self._unknown_kinds.discard(kind)
            for key in self._cache.listed(kind, listing.items, listing.resource_version):
                self._wake(key)
        self._resynced_at = time.monotonic()
        self._metrics.resynced(time.time())
        if not first.is_set():
            first.set()
            for key in self._cache.jobs():
                self._queue.add(key)

    async def _read_all_progress(self) -> None:
        keys = [key for key in self._cache.jobs() if self._has_allocator(key)]
        await asyncio.gather(*(self._read_progress(key) for key in keys))

    def _has_allocator(self, key: JobKey) -> bool:
        """Whether the job runs, and its allocator is there to be asked."""
        job = self._cache.job(key)
        if job is None or read_status(job).phase in TERMINAL:
            return False
        return any(is_ready(pod) for pod in self._observed(key, job).pods_of(names.ALLOCATOR))

    async def _read_progress(self, key: JobKey) -> None:
        job = self._cache.job(key)
        if job is None:
            return
        found = await self._reader.read(*key, token(self._token_key, *key))
        known = self._said(key, job)
        self._progress[key] = job["metadata"]["uid"], found or known
        if found is not None and found != known:
            self._wake(key)

    def _said(self, key: JobKey, job: Manifest) -> Progress | None:
        """What this job's learner said last."""
        uid, said = self._progress.get(key, ("", None))
        return said if uid == job["metadata"]["uid"] else None

    def _observed(self, key: JobKey, job: Manifest) -> Observed:
        children = self._cache.children(key)
        return Observed(
            job=job,
            children=tuple(child for child in children if child["kind"] != "Pod"),
            pods=tuple(child for child in children if child["kind"] == "Pod"),
            progress=self._said(key, job),
        )

    async def _work(self, first: asyncio.Event) -> None:
        await first.wait()
        while True:
            key = await self._queue.get()
            self._metrics.due(len(self._queue))
            started, cause = time.perf_counter(), ""
            try:
                await self._look(key)
            except ClusterError as error:
                cause = error.reason
                logger.warning("%s/%s: %s", *key, error)
                self._retry(key)
            except Exception:  # the outermost loop of this worker: one job's fault must not stop the others
                cause = "Bug"
                logger.exception("%s/%s: the look failed", *key)
                self._retry(key)
            finally:
                self._queue.done(key)
            self._metrics.reconciled(time.perf_counter() - started, error=cause)

    def _retry(self, key: JobKey) -> None:
        self._failures[key] = self._failures.get(key, 0) + 1
        self._queue.add_after(key, min(_MAX_RETRY_SECONDS, 0.5 * 2 ** min(self._failures[key], 10)))

    async def _look(self, key: JobKey) -> None:
        job = self._cache.job(key)
        if job is None:
            self._forget(key)
            return
        is_new = self._progress.get(key, ("", None))[0] != job["metadata"]["uid"]
        if is_new and self._has_allocator(key):
            await self._read_progress(key)  # this operator's first look: a status is not to lose what it said
        decision = self._decide(key, job)
        if decision.wants_progress:
            await self._read_progress(key)
            decision = self._decide(key, job)
        is_refused = await self._carry_out(key, job, decision)
        if is_refused:
            self._retry(key)
        else:
            self._failures.pop(key, None)
        if decision.look_again_at is not None:
            wait = decision.look_again_at - _now()
            self._queue.add_after(key, max(0.1, wait / timedelta(seconds=1)))

    def _decide(self, key: JobKey, job: Manifest) -> Decision:
        secret = token(self._token_key, *key)
        return desired(self._observed(key, job), _now(), operator=self._operator, token=secret)

    async def _carry_out(self, key: JobKey, job: Manifest, decision: Decision) -> bool:
        """Do it and say it. Returns whether the API server refused a part."""
        is_over = decision.status.phase in TERMINAL
        if is_over:  # said first: the end must not be lost if the clean-up breaks off
            await self._write_status(key, job, decision.status)
        executor = Executor(self._cluster, job)
        done = await asyncio.to_thread(executor.perform, decision.actions, self._unknown_kinds)
        for manifest in done.seen:
            self._cache.saw(manifest)
        for refusal in done.refusals:
            logger.warning("%s/%s: %s", *key, refusal.message)
        if not is_over:
            generation = job["metadata"].get("generation")
            status = job_status.with_refusals(read_status(job), decision.status, done.refusals, _now(), generation)
            await self._write_status(key, job, status)
        return bool(done.refusals)

    async def _write_status(self, key: JobKey, job: Manifest, status: JobStatus) -> None:
        before = read_status(job)
        self._metrics.job(key, job, status)
        if status == before and job.get("status"):
            return
        try:
            written = await asyncio.to_thread(self._cluster.patch_status, job, status_patch(status))
        except ClusterError as error:
            if error.code == 404:
                self._cache.lost(job)
                return
            if error.code == 409:  # it has changed since: decide anew on what it is now
                await self._refresh(key)
            raise
        self._cache.saw({**written, "kind": KIND})
        for event in events.transitions(before, status):
            await self._record(key, events.manifest(event, job, _now()))

    async def _refresh(self, key: JobKey) -> None:
        try:
            self._cache.saw(await asyncio.to_thread(self._cluster.get, KIND, *key))
        except ClusterError as error:
            logger.info("%s/%s cannot be read anew: %s", *key, error)

    async def _record(self, key: JobKey, event: Manifest) -> None:
        """Events are for people; one that cannot be recorded stops nothing."""
        try:
            await asyncio.to_thread(self._cluster.record, event)
        except ClusterError as error:
            logger.warning("%s/%s: the event %s was not recorded: %s", *key, event["reason"], error)
        logger.info("%s/%s: %s: %s", *key, event["reason"], event["message"])

    def _forget(self, key: JobKey) -> None:
        self._queue.forget(key)
        self._metrics.forget(key)
        self._progress.pop(key, None)
        self._failures.pop(key, None)


def _now() -> datetime:
    return datetime.now(UTC)
