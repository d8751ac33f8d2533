"""`gvm page`: the live page of a job in a cluster, brought to this machine by kubectl's port-forward.

kubectl does the talking, with the rights of whoever calls: this reads the job's token and opens a port. Knows
nothing of what the page shows.
"""

import base64
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import Annotated

import typer

from gvm_api import names
from gvm_api.load import one_line

_ANSWER_SECONDS = 30.0
_AGAIN_SECONDS = 2.0
_MOST_FAILURES = 30
"""Forwards in a row that break at once: about a minute, in which a restarted allocator is back."""
_STEADY_SECONDS = 10.0
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


def page(
    name: Annotated[str, typer.Argument(help="The job.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Where; default the kubeconfig context's.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 0,
) -> None:
    """Open a job's live page from the cluster on this machine, until Ctrl-C.

    Prints an address with the job's token; whoever has it may read the job's
    samples while the command runs. Uses kubectl, which must be allowed to read
    the Secret NAME-allocator-token and to forward ports. (`gvm run` prints the
    address of a local run itself.)

    Example: gvm page arithmetic -n research
    """
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        token = _token(name, namespace)
        with suppress(KeyboardInterrupt):
            _forward_for_ever(name, namespace, port, token)
    except ValueError as error:
        typer.echo(f"gvm: {one_line(str(error))}", err=True)
        raise typer.Exit(2) from error
    except _KubectlError as error:
        typer.echo(f"gvm: {one_line(str(error))}", err=True)
        raise typer.Exit(1) from error


class _KubectlError(RuntimeError):
    """kubectl could not do it; its own words."""


def _token(name: str, namespace: str | None) -> str:
    command = [*_kubectl(namespace), "get", "secret", names.token_secret(name), "-o", "jsonpath={.data.token}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _KubectlError(f"kubectl did not answer within {_ANSWER_SECONDS:g} s") from error
    if "NotFound" in done.stderr:
        raise ValueError(f"there is no running job {name!r} in that namespace; gvm status -A shows all")
    if done.returncode:
        raise _KubectlError(done.stderr.strip())
    return base64.b64decode(done.stdout).decode()


def _forward_for_ever(name: str, namespace: str | None, port: int, token: str) -> None:
    """Forward, and again where the connection breaks: a restarted allocator is a new pod."""
    num_failures = 0
    while True:
        begun = time.monotonic()
        port, words = _forward(name, namespace, port, token)
        num_failures = 0 if time.monotonic() - begun > _STEADY_SECONDS else num_failures + 1
        if num_failures >= _MOST_FAILURES:
            raise _KubectlError(f"the port cannot be forwarded: {words}")
        typer.echo(f"the connection broke ({one_line(words)}); trying again", err=True)
        time.sleep(_AGAIN_SECONDS)


def _forward(name: str, namespace: str | None, port: int, token: str) -> tuple[int, str]:
    """Forward once. Returns the port on this machine, and kubectl's last words."""
    command = [*_kubectl(namespace), "port-forward", f"service/{names.child(name, names.ALLOCATOR)}", f"{port}:8000"]
    words = ""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.strip() or words
            if found := _FORWARDING.search(line):
                port = int(found[1])
                typer.echo(f"live page: http://127.0.0.1:{port}/#token={token}")
    finally:
        process.terminate()
        process.wait()
    return port, words


def _kubectl(namespace: str | None) -> list[str]:
    if shutil.which("kubectl") is None:
        raise ValueError("kubectl is not on the PATH; install it, it forwards the port")
    return ["kubectl", *(["--namespace", namespace] if namespace else [])]
