"""Runs a job's rendered children as processes on this machine, as Deployments and a Job would run in a cluster.

Starts what `gvm_operator.manifests` renders; owns restarts, deadlines, the status and the order of the end.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from gvm_api import env, names
from gvm_api.load import InvalidJobError
from gvm_api.spec import GVMTrainingJob
from gvm_api.status import JobStatus, RoleStatus
from gvm_api.wire import Progress
from gvm_cli import processes, run_directory
from gvm_cli.processes import Process
from gvm_operator import manifests
from gvm_operator.observed import stamp
from gvm_operator.site import Site

_POLL_SECONDS = 0.5
_MEMORY_EVERY_SECONDS = 15.0
_SERVER_RESTARTS = 5


class RunFailedError(RuntimeError):
    """The run ended without success; the message says why and where the log is."""


@dataclass(kw_only=True, slots=True)
class LocalRun:
    """One run of one job on this machine.

    `on_poll` is called about twice a second with the status and the learner's progress.

    Raises:
        InvalidJobError: a variable's value is kept in the cluster, and the environment has none.
    """

    job: GVMTrainingJob
    run_dir: Path
    on_poll: Callable[[JobStatus, Progress | None], None]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    started: float = field(default_factory=time.monotonic)
    running: dict[str, Process] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    _memory_read_at: float = 0.0
    _restarts_before: int = 0
    """Those of earlier runs in this directory, which resumed: each has a back-off limit of its own."""
    _said: str = ""
    """The learner's message that was passed on last."""
    _is_written: bool = True
    _status: JobStatus = field(default_factory=JobStatus)
    _site: Site = field(init=False)
    _ports: dict[str, int] = field(init=False)
    _commands: dict[str, tuple[list[str], dict[str, str]]] = field(init=False)
    """Command and environment by the process's name."""

    def __post_init__(self) -> None:
        learners = [f"{names.LEARNER}-{i}" for i in range(self.job.spec.learner.replicas)]
        servers = [f"{names.ROLLOUT}-{i}" for i in range(self.job.spec.rollout.replicas)]
        wanted = [names.ALLOCATOR, *servers, *learners, "weights", "rendezvous"]
        self._ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))
        self._site = Site(
            allocator_url=f"http://127.0.0.1:{self._ports[names.ALLOCATOR]}",
            rollout_urls=tuple(f"http://127.0.0.1:{self._ports[name]}" for name in servers),
            weights_host="127.0.0.1",
            weights_port=self._ports["weights"],
            rendezvous_host="127.0.0.1",
            rendezvous_port=self._ports["rendezvous"],
            run_dir=str(self.run_dir.absolute()),
            job_file=str((self.run_dir / run_directory.JOB_FILE).absolute()),
            termination_log=str((self.run_dir / "logs" / "termination-log").absolute()),
        )
        self.restarts = dict.fromkeys([names.ALLOCATOR, *servers, *learners], 0)
        containers = manifests.main_containers(manifests.children(self.job, self._site, token=self.token))
        self._commands = {}
        for name in self.restarts:
            container = containers[name.partition("-")[0]]
            command = [*container["command"], *container.get("args", [])]
            self._commands[name] = (command, self._environment(name, container))

    @property
    def page_url(self) -> str:
        """The live page; the token is in the fragment, which browsers keep to themselves."""
        return f"{self._site.allocator_url}/#token={self.token}"

    def execute(self) -> JobStatus:
        """Run to the end.

        Returns:
            The final status, phase Succeeded.

        Raises:
            RunFailedError: the learner failed more often than backoffLimit allows, or a deadline passed.
            InvalidJobError: the learner cannot use the job's model, data or reward.
        """
        run_directory.write_job(self.run_dir, self.job)
        processes.end_recorded(self.run_dir / "processes.json")
        # Of the learner's nodes the first alone has figures to serve.
        silent = {name for name in self.restarts if name.startswith(names.LEARNER)} - {f"{names.LEARNER}-0"}
        serving = {name: self._ports[name] for name in self.restarts if name not in silent}
        run_directory.write_targets(self.run_dir, self.job, serving)
        before = run_directory.read_status(self.run_dir)
        self._restarts_before = before.restarts
        self._set(
            phase="Starting",
            start_time=before.start_time or _now(),
            restarts=before.restarts,
            max_iterations=self.job.spec.algorithm.max_iterations,
        )
        try:
            Path(self._site.termination_log).unlink(missing_ok=True)
            for name in self.restarts:
                self._start(name)
            while not self._learner_is_done():
                self._poll()
            self._set_progress(self._progress())
            self._set(phase="Succeeded", completion_time=_now(), message="")
        except (RunFailedError, InvalidJobError) as error:
            self._set(phase="Failed", completion_time=_now(), message=str(error).splitlines()[0])
            raise
        except BrokenPipeError:  # whoever read our output is gone
            raise
        except OSError as error:  # of our own files: a full disk, mostly
            message = f"{self.run_dir}: cannot be written ({error}); make room there, and run the same command again"
            self._set(phase="Failed", completion_time=_now(), message=message)
            raise RunFailedError(message) from error
        except (KeyboardInterrupt, SystemExit):
            self._set(phase="Suspended", message="interrupted; run the same command to resume")
            raise
        finally:
            self._stop_all()
        return self._status

    def _start(self, name: str) -> None:
        command, variables = self._commands[name]
        try:
            self.running[name] = processes.start(name, command, variables, log=self.run_dir / "logs" / f"{name}.log")
        except OSError as error:
            raise RunFailedError(f"{name}: {command[0]!r} cannot be started ({error})") from error
        processes.record(list(self.running.values()), self.run_dir / "processes.json")

    def _environment(self, name: str, container: dict[str, Any]) -> dict[str, str]:
        """A container's `env`, with our own Secret resolved; other references are the cluster's."""
        role, _, index = name.partition("-")
        own = {env.HOST: "127.0.0.1", env.PORT: str(self._ports[name])} if name in self._ports else {}
        variables = {"JOB_COMPLETION_INDEX": index} if role == names.LEARNER else {}
        for entry in container["env"]:
            key, reference = entry["name"], entry.get("valueFrom", {}).get("secretKeyRef", {})
            if reference.get("name") == names.token_secret(self.job.metadata.name):
                variables[key] = self.token
            elif "valueFrom" not in entry:
                variables[key] = own.get(key) or processes.expand([entry.get("value", "")], variables)[0]
            elif key not in os.environ:
                raise InvalidJobError(
                    [f"spec.{role}.env: {key} has its value in the cluster; export {key} before `gvm run`"]
                )
        return variables

    def _learner_is_done(self) -> bool:
        codes = {name: p.exit_code for name, p in self.running.items() if name.startswith(names.LEARNER)}
        failed = [name for name, code in codes.items() if code not in (None, 0)]
        if failed:
            self._restart_gang(failed[0])
            return False
        return all(code == 0 for code in codes.values())

    def _restart_gang(self, failed: str) -> None:
        process = self.running[failed]
        words = self._last_words()
        reason = f"{failed} ended with exit code {process.exit_code}{words and f': {words}'}; see {process.log}"
        if self._status.restarts - self._restarts_before >= self.job.spec.run_policy.backoff_limit:
            raise RunFailedError(f"{reason} (restarts: {self._status.restarts})\n{process.last_lines()}")
        self._set(restarts=self._status.restarts + 1, message=f"{reason}; the learner restarts from its checkpoint")
        gang = [name for name in self.running if name.startswith(names.LEARNER)]
        processes.stop([self.running[name] for name in gang])
        Path(self._site.termination_log).unlink(missing_ok=True)  # what the next gang says is to be its own
        for name in gang:
            self._start(name)

    def _last_words(self) -> str:
        """What the learner said of its end, unless that is an end which no restart would better."""
        path = Path(self._site.termination_log)
        words = path.read_text(errors="replace").strip() if path.exists() else ""
        if words.startswith(env.INVALID_INPUT):
            raise InvalidJobError([words.removeprefix(env.INVALID_INPUT)])
        if words.startswith(env.STORAGE_UNUSABLE):
            raise RunFailedError(words.removeprefix(env.STORAGE_UNUSABLE))
        return words

    def _poll(self) -> None:
        time.sleep(_POLL_SECONDS)
        self._restart_servers()
        self._check_deadlines()
        progress = self._progress()
        self._set_progress(progress)
        self._read_memory()
        self.on_poll(self._status, progress)

    def _restart_servers(self) -> None:
        for name, process in list(self.running.items()):
            if name.startswith(names.LEARNER) or process.exit_code is None:
                continue
            self.restarts[name] += 1
            if self.restarts[name] > _SERVER_RESTARTS:
                raise RunFailedError(
                    f"{name} ended {self.restarts[name]} times, last with exit code {process.exit_code}; "
                    f"see {process.log}\n{process.last_lines()}"
                )
            self._set(message=f"{name} ended with exit code {process.exit_code} and is started again")
            processes.stop([process])
            self._start(name)

    def _check_deadlines(self) -> None:
        policy, elapsed = self.job.spec.run_policy, time.monotonic() - self.started
        if policy.active_deadline_seconds is not None and elapsed > policy.active_deadline_seconds:
            raise RunFailedError(f"runPolicy.activeDeadlineSeconds of {policy.active_deadline_seconds} passed")
        if self._status.phase == "Starting" and elapsed > policy.startup_deadline_seconds:
            raise RunFailedError(
                f"runPolicy.startupDeadlineSeconds of {policy.startup_deadline_seconds} passed; "
                f"see {self.run_dir / 'logs'}"
            )

    def _progress(self) -> Progress | None:
        url = f"{self._site.allocator_url}/v1/jobs/{self.job.metadata.name}/progress"
        try:
            response = httpx.get(url, headers={"Authorization": f"Bearer {self.token}"}, timeout=2.0)
        except httpx.TransportError:
            return None  # not up yet, or restarting: `_restart_servers` sees to that
        return Progress.model_validate(response.json()) if response.status_code == httpx.codes.OK else None

    def _set_progress(self, progress: Progress | None) -> None:
        roles: dict[str, RoleStatus] = {}
        for role in names.ROLES:
            of_role = [p for name, p in self.running.items() if name.startswith(role)]
            alive = sum(p.exit_code is None for p in of_role)
            failed = sum(p.exit_code not in (None, 0) for p in of_role)
            roles[role] = RoleStatus.of(desired=len(of_role), ready=alive, failed=failed)
        changes: dict[str, Any] = dict(roles)
        if progress is not None:
            own = JobStatus.model_fields.keys() - {"phase", "message"}
            changes |= progress.model_dump(include=set(own), by_alias=False)
            if progress.message and progress.message != self._said:
                self._said = changes["message"] = progress.message
            if progress.phase == "Running":
                changes["phase"] = "Running"
        self._set(**changes)

    def _set(self, **changes: Any) -> None:
        status = self._status.model_copy(update=changes)
        if status == self._status and self._is_written:
            return
        self._status = status
        try:
            run_directory.write_status(self.run_dir, status)
            self._is_written = True
        except OSError:  # a full disk ends the run where it is the learner that needs it; then there is room again
            self._is_written = False

    def _read_memory(self) -> None:
        if time.monotonic() - self._memory_read_at < _MEMORY_EVERY_SECONDS:
            return
        self._memory_read_at = time.monotonic()
        alive = list(self.running.values())
        self.peak_memory_bytes = max(self.peak_memory_bytes, processes.resident_bytes(alive))
        with contextlib.suppress(OSError):  # no reason to end a run: what was written at the start mostly holds
            processes.record(alive, self.run_dir / "processes.json")

    def _stop_all(self) -> None:
        # The learner first, so that it does not see its servers vanish.
        learners = [p for p in self.running.values() if p.name.startswith(names.LEARNER)]
        try:
            processes.stop(learners)
        finally:
            processes.stop([p for p in self.running.values() if p not in learners])
        (self.run_dir / "processes.json").unlink(missing_ok=True)
        (self.run_dir / run_directory.TARGETS_FILE).unlink(missing_ok=True)
        self._set(**{role: getattr(self._status, role).model_copy(update={"ready": 0}) for role in names.ROLES})


def free_ports(num_ports: int) -> list[int]:
    """TCP ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(num_ports)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _now() -> str:
    return stamp(datetime.now(UTC))
