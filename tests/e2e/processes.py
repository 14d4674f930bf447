"""Real Penstock processes for the tests: `penstock up`, `penstock gateway` and `penstock sim engine`.

Each is started on free loopback ports in a home of its own, waited for until it answers, and stopped by its pid.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

KEY = "sk-test-key-of-the-end-to-end-tests"
# Generous: the machine may be slow and shared. Nothing waits this long unless something is broken.
PATIENCE_S = 60.0


@dataclass
class Reply:
    """A whole HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A process that serves HTTP on loopback."""

    process: subprocess.Popen[str]
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience_s)
        sent = {**self.headers, **(headers or {})}
        if isinstance(body, Mapping):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@dataclass
class Gateway(Server):
    """A gateway, with the port of its admin listener."""

    admin_port: int = 0
    home: Path = Path()

    def ask(self, text: str, model: str, **members: Any) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **members}
        return self.request("POST", "/v1/chat/completions", body)

    def admin(self, path: str, method: str = "GET", key: str | None = None) -> Reply:
        """What the admin listener answers, with this home's admin key unless another is given."""
        if key is None:
            key = (self.home / "admin-key").read_text()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return Server(self.process, self.admin_port, self.log, headers).request(method, path)

    def penstock(self, *arguments: str, patience_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """A command of Penstock in this home and with this gateway's configuration."""
        folder = self.log.parent
        environ = environment(self.home, PENSTOCK_GATEWAY__ADMIN=f"127.0.0.1:{self.admin_port}")
        return subprocess.run(
            [sys.executable, "-m", "penstock", *arguments],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=patience_s,
        )

    def record(self, request_id: str) -> dict[str, Any]:
        """The log line of this request, which comes after its answer."""

        under_up = self.home / "logs" / "gateway.log"

        def find() -> dict[str, Any] | None:
            log = under_up if under_up.exists() else self.log
            lines = (json.loads(line) for line in log.read_text().splitlines() if request_id in line)
            return next((line for line in lines if line.get("event") == "request"), None)

        return wait_until(find, f"the record of {request_id}")


class Sim(Server):
    """A simulated engine."""

    def script(self, fault: str, requests: int = 1) -> None:
        reply = self.request("POST", "/sim/faults", {"fault": fault, "requests": requests})
        assert reply.status == 200, reply.body

    def seen(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.request("GET", "/sim/requests").json()
        return answer


def wait_until(condition: Callable[[], T | None], what: str, patience_s: float = PATIENCE_S) -> T:
    """What `condition` gives once it is true."""
    deadline_s = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"waited {patience_s} s for {what}"
        time.sleep(0.01)
    return value


_GIVEN: set[int] = set()


def free_port() -> int:
    """A port that is free now, and that nobody here was given before."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


def environment(home: Path, **extra: str) -> dict[str, str]:
    """This process's environment without what would configure Penstock, and with `extra`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    return {**kept, "PENSTOCK_HOME": str(home), **extra}


@contextmanager
def sim_engine(folder: Path, *options: str, port: int = 0, key: str = "") -> Iterator[Sim]:
    """A simulated engine with these options."""
    log = folder / f"sim-{time.monotonic_ns()}.log"
    argv = [sys.executable, "-m", "penstock", "sim", "engine", "--port", str(port), *options]
    with log.open("w") as sink:
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env=environment(folder, PENSTOCK_SIM_API_KEY=key),
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Sim(process, int(line.strip().rpartition(":")[2]), log)
    finally:
        stop(process)


@contextmanager
def gateway(folder: Path, toml: str, **env: str) -> Iterator[Gateway]:
    """`penstock gateway` with this configuration, once it answers (ready or not)."""
    home, log, port, admin_port = folder / "home", folder / "gateway.log", free_port(), free_port()
    config = folder / "penstock.toml"
    config.write_text(toml)
    env = {
        "GATEWAY_API_KEYS": KEY,
        "PENSTOCK_GATEWAY__LISTEN": f"127.0.0.1:{port}",
        "PENSTOCK_GATEWAY__ADMIN": f"127.0.0.1:{admin_port}",
        **env,
    }
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "--config", str(config), "gateway"],
            stdout=sink,
            stderr=sink,
            text=True,
            cwd=folder,
            env=environment(home, **env),
        )
    server = Gateway(process, port, log, {"Authorization": f"Bearer {KEY}"}, admin_port, home)
    try:
        wait_until(lambda: process.poll() is not None or _answers(port), "the gateway to listen")
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        stop(process)


@contextmanager
def ready_gateway(folder: Path, toml: str, **env: str) -> Iterator[Gateway]:
    """`penstock gateway` once all its models are ready."""
    with gateway(folder, toml, **env) as server:
        wait_until(lambda: server.request("GET", "/ready").status == 200, "the gateway to be ready")
        yield server


@contextmanager
def penstock_up(folder: Path, toml: str = "", **env: str) -> Iterator[Gateway]:
    """`penstock up`, once it has printed its banner; the key is the banner's, where it shows one."""
    home, log, port, admin_port = folder / "home", folder / "up.log", free_port(), free_port()
    (folder / "penstock.toml").write_text(toml)
    env = {
        "PENSTOCK_GATEWAY__LISTEN": f"127.0.0.1:{port}",
        "PENSTOCK_GATEWAY__ADMIN": f"127.0.0.1:{admin_port}",
        **env,
    }
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "up"],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            cwd=folder,
            env=environment(home, **env),
        )
    assert process.stdout is not None
    try:
        banner = ""
        while "Try it:" not in banner:
            line = process.stdout.readline()
            assert line, banner + log.read_text()
            banner += line
        key = re.search(r"sk-penstock-\S+", banner)
        headers = {"Authorization": f"Bearer {key[0] if key else KEY}"}
        yield Gateway(process, port, log, headers, admin_port, home)
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Ends the process, kindly and then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Engine(Protocol):
    """Anything with an address."""

    @property
    def url(self) -> str: ...


def remote(name: str, *engines: Engine, extra: str = "") -> str:
    """The configuration of a model that these engines serve."""
    sources = ", ".join(f'"{engine.url}"' for engine in engines)
    return f'[[models]]\nname = "{name}"\nengine = "remote"\nsource = [{sources}]\n{extra}\n'


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
