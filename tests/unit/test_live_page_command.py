"""`gvm page` with a kubectl of our own making: token, address, a connection that breaks, and who is not there."""

import base64
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

KUBECTL = """#!{python}
import pathlib, sys, time
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "get" in sys.argv:
    if "secret" in sys.argv and "absent-allocator-token" in sys.argv:
        sys.exit('Error from server (NotFound): secrets "absent-allocator-token" not found')
    if "forbidden-allocator-token" in sys.argv:
        sys.exit("Error from server (Forbidden): secrets is forbidden")
    print({token!r}, end="")
else:
    port = sys.argv[-1].partition(":")[0]
    print(f"Forwarding from 127.0.0.1:{{port if port != '0' else 40123}} -> 8000", flush=True)
    print("Forwarding from [::1]:40123 -> 8000", flush=True)
    if not (folder / "broke").exists():
        (folder / "broke").touch()
        sys.exit("error: lost connection to pod")
    time.sleep(60)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    token = base64.b64encode(b"s3cret").decode()
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(tmp_path), token=token))
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def gvm_page(environment: dict[str, str], *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gvm_cli.main", "page", *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_address_has_the_job_s_token_and_outlives_a_broken_connection(
    environment: dict[str, str], tmp_path: Path
) -> None:
    process = gvm_page(environment, "math", "-n", "research")
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    # The same port again, so that an open page finds its server.
    assert lines == ["live page: http://127.0.0.1:40123/#token=s3cret\n"] * 2
    assert "lost connection to pod" in errors
    assert process.returncode == 0
    assert (tmp_path / "calls").read_text().splitlines() == [
        "--namespace research get secret math-allocator-token -o jsonpath={.data.token}",
        "--namespace research port-forward service/math-allocator 0:8000",
        "--namespace research port-forward service/math-allocator 40123:8000",
    ]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("absent", 2, "there is no running job 'absent'"), ("forbidden", 1, "secrets is forbidden")],
)
def test_what_kubectl_refuses_is_one_line(environment: dict[str, str], name: str, code: int, words: str) -> None:
    process = gvm_page(environment, name)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (code, "")
    assert errors.startswith("gvm: ")
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_without_kubectl_it_says_what_to_install(tmp_path: Path) -> None:
    process = gvm_page({**os.environ, "PATH": str(tmp_path)}, "math")
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (2, "gvm: kubectl is not on the PATH; install it, it forwards the port\n")


def test_ending_the_command_ends_kubectl(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broke").touch()
    process = gvm_page(environment, "math", "--port", "40555")
    assert process.stdout is not None
    assert process.stdout.readline() == "live page: http://127.0.0.1:40555/#token=s3cret\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 20, "kubectl would have slept for a minute"
