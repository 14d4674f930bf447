"""Penstock under a service manager: what its processes say on a real notify socket, and that no child has it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import KEY, Gateway, environment, free_port, stop, wait_until
from tests.e2e.test_reload import Stream

SIM = '[[models]]\nname = "m"\nengine = "sim"\nengine_args = { base_step_s = 0.05 }\n'
WATCHDOG_S = 0.9
Start = Callable[..., Gateway]


class Manager:
    """The side of systemd: every line that was sent, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._receiver.start()

    def _receive(self) -> None:
        while datagram := self._socket.recv(4096):
            self.lines += datagram.decode().split("\n")

    def count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.lines)

    def wait_for(self, start: str, times: int = 1) -> None:
        wait_until(lambda: self.count(start) >= times, f"{times} {start}, not {self.lines}")

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", str(self.path))
        self._receiver.join()
        self._socket.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command of Penstock as systemd would, all in one home."""
    port, admin_port = free_port(), free_port()
    started: list[subprocess.Popen[str]] = []

    def start(manager: Manager, *command: str, **env: str) -> Gateway:
        log = tmp_path / f"{command[0]}.log"
        environ = environment(
            tmp_path / "home",
            PENSTOCK_GATEWAY__LISTEN=f"127.0.0.1:{port}",
            PENSTOCK_GATEWAY__ADMIN=f"127.0.0.1:{admin_port}",
            NOTIFY_SOCKET=str(manager.path),
            WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)),
            **env,
        )
        with log.open("a") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *command],
                cwd=tmp_path,
                stdout=sink,
                stderr=sink,
                text=True,
                env=environ,
            )
        started.append(process)
        headers = {"Authorization": f"Bearer {KEY}"}
        return Gateway(process, port, log, headers, admin_port, tmp_path / "home")

    (tmp_path / "penstock.toml").write_text(SIM)
    yield start
    for process in reversed(started):
        stop(process)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Callable[[str], Manager]]:
    """Makes a manager's socket for a service."""
    made: list[Manager] = []

    def make(service: str) -> Manager:
        made.append(Manager(tmp_path / service))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_supervisor_tells_of_its_start_its_reloads_its_pulse_and_its_end(
    start: Start, manager: Callable[[str], Manager]
) -> None:
    systemd = manager("up")
    up = start(systemd, "up")
    process = psutil.Process(up.process.pid)

    systemd.wait_for("READY=1")
    assert up.request("GET", "/ready").status == 200
    before = systemd.lines[: systemd.lines.index("READY=1")]
    assert any(line.startswith("STATUS=") for line in before)
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in before)
    assert "sk-" not in up.log.read_text()  # a journal is no place for a key
    systemd.wait_for("STATUS=all parts are up")
    children = process.children(recursive=True)
    assert len(children) >= 2
    for child in children:
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & child.environ().keys()

    up.process.send_signal(signal.SIGHUP)
    systemd.wait_for("READY=1", times=2)
    reloaded = systemd.lines.index("RELOADING=1")
    assert systemd.lines[reloaded + 1].startswith("MONOTONIC_USEC=")

    up.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the supervisor to stand still")
    beats = systemd.count("WATCHDOG=1")
    time.sleep(2 * WATCHDOG_S)  # nothing to wait for: that nothing comes is what is to be seen
    assert systemd.count("WATCHDOG=1") <= beats + 1  # one may have been on its way
    up.process.send_signal(signal.SIGCONT)
    systemd.wait_for("WATCHDOG=1", times=beats + 2)

    assert up.stop() == 0
    assert "STOPPING=1" in systemd.lines


def test_an_engine_that_is_stopped_alone_ends_after_the_streams_that_its_gateway_has_with_it(
    start: Start, manager: Callable[[str], Manager]
) -> None:
    of_gateway, of_engine = manager("gateway"), manager("engine")
    front = start(of_gateway, "gateway", GATEWAY_API_KEYS=KEY)
    of_gateway.wait_for("READY=1")  # it answers, if only that the model is not there yet
    engine = start(of_engine, "engine", "m")
    of_engine.wait_for("READY=1")
    wait_until(lambda: front.request("GET", "/ready").status == 200, "the gateway to be ready")
    stream = Stream(front, "m")

    assert engine.stop() == 0
    assert stream.whole()
    assert "STOPPING=1" in of_engine.lines

    again = start(of_engine, "engine", "m")
    of_engine.wait_for("READY=1", times=2)
    wait_until(lambda: front.ask("hi", "m", max_tokens=1).status == 200, "the new engine to serve")
    assert again.stop() == 0
    assert front.stop() == 0
    assert "STOPPING=1" in of_gateway.lines


def test_an_exporter_tells_of_its_start_and_its_end(start: Start, manager: Callable[[str], Manager]) -> None:
    systemd = manager("exporter")
    exporter = start(systemd, "exporter", PENSTOCK_EXPORTER__LISTEN=f"127.0.0.1:{free_port()}")

    systemd.wait_for("READY=1")
    systemd.wait_for("STATUS=metrics at http://127.0.0.1:")
    systemd.wait_for("WATCHDOG=1")

    assert exporter.stop() == 0
    assert "STOPPING=1" in systemd.lines


def test_a_gateway_of_several_workers_is_ready_when_all_of_them_listen(
    start: Start, manager: Callable[[str], Manager]
) -> None:
    systemd = manager("gateway")
    front = start(systemd, "gateway", PENSTOCK_GATEWAY__WORKERS="2")

    systemd.wait_for("READY=1")
    systemd.wait_for("STATUS=2 of 2 workers up")
    systemd.wait_for("WATCHDOG=1")

    assert front.stop() == 0
    assert "STOPPING=1" in systemd.lines
