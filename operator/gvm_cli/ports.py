"""TCP ports of this machine's loopback: free ones, and who holds one that is taken."""

import contextlib
import random
import socket

import psutil

_HOST = "127.0.0.1"
_FIRST, _LAST = 20000, 29999
"""Below those that systems give to outgoing connections: a port has to stay free while its server restarts."""


def free_ports(num_ports: int) -> list[int]:
    """TCP ports that nobody holds now."""
    found: list[int] = []
    for port in random.sample(range(_FIRST, _LAST + 1), _LAST + 1 - _FIRST):
        if len(found) == num_ports:
            break
        if is_free(port):
            found.append(port)
    assert len(found) == num_ports, f"of the ports {_FIRST} to {_LAST} nearly all are taken"
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on it, as servers ask: connections that ended a moment ago do not count."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((_HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who holds a port, as far as the system tells, e.g. "python3 (pid 17)"."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"
