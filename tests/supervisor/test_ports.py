"""Ports: free ones, and who sits on a taken one."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from penstock.core.config import Address
from penstock.core.errors import PenstockError
from penstock.supervisor.ports import free_port, why_not_free


def test_a_free_port_can_be_listened_on() -> None:
    assert why_not_free(Address("127.0.0.1", free_port("127.0.0.1"))) == ""


def test_the_process_on_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        reason = why_not_free(Address("127.0.0.1", port))

    name = psutil.Process().name()
    assert reason == f"127.0.0.1:{port} is in use by pid {os.getpid()} ({name})"


def test_a_port_that_was_closed_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()

    assert why_not_free(Address("127.0.0.1", port)) == ""


def test_an_address_of_another_machine_is_refused() -> None:
    assert why_not_free(Address("192.0.2.1", 0)) == "192.0.2.1 is not an address of this machine"


def test_where_no_port_can_be_had_it_is_said_how_to_find_out_why() -> None:
    with pytest.raises(PenstockError, match=r"no port of 192\.0\.2\.1 can be had \(.+\): `ss -tan` shows"):
        free_port("192.0.2.1")
