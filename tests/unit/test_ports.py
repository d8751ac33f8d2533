"""Ports: free ones, outside of the range of outgoing connections, and who holds one."""

import os
import socket

import psutil

from gvm_cli import ports


def test_free_ports_differ_and_can_be_bound() -> None:
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert all(20000 <= port < 30000 for port in found), "none that the system gives to an outgoing connection"
    with socket.socket() as server:
        server.bind(("127.0.0.1", found[0]))


def test_a_port_that_is_taken_has_a_holder_with_name_and_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.holder(port) == f"{psutil.Process().name()} (pid {os.getpid()})"
    assert ports.is_free(port)
    assert ports.holder(port) == "another program"


def test_a_port_whose_server_ended_a_moment_ago_is_free() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = server.accept()
    accepted.close()
    client.close()
    server.close()
    assert ports.is_free(port)
