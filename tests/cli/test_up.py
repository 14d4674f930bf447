"""`penstock up`, `status` and `stop` as real processes, with simulated engines."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from penstock.supervisor.ports import free_port

WITHIN_S = 60.0
HOST = "127.0.0.1"
CONFIG = """
[gateway]
listen = "127.0.0.1:{listen}"
admin = "127.0.0.1:{admin}"
drain_timeout = "2s"
[[models]]
name = "sim"
engine = "sim"
replicas = 2
"""


class Site:
    """A folder in which `penstock up` runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port(HOST)
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "penstock.toml").write_text(CONFIG.format(listen=self.port, admin=free_port(HOST)))

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command in the background."""
        with (self.folder / "err").open("a") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *command],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        self.processes.append(process)
        return process

    def up(self) -> tuple[subprocess.Popen[str], str]:
        """`penstock up`, and its banner once it is ready."""
        process = self.start("up")
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Stop it"):
                return process, "".join(lines)
        raise AssertionError((self.folder / "err").read_text())

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "penstock", *command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
        )

    def status(self) -> tuple[int, dict[str, object]]:
        """The exit code and the JSON of `penstock status`."""
        result = self.run("status", "--json")
        return result.returncode, json.loads(result.stdout)

    def assert_nothing_is_left(self, family: list[psutil.Process]) -> None:
        """No process of `family`, no port, no lock, no registration."""
        _, alive = psutil.wait_procs(family, timeout=WITHIN_S)
        assert not alive
        socket.create_server((HOST, self.port)).close()
        left = [path.name for path in (self.folder / ".penstock" / "run").rglob("*") if path.is_file()]
        assert left == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and all below it."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def until(condition: Callable[[], bool]) -> None:
    """Waits for `condition`."""
    end_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_up_answers_refuses_a_second_and_stops_without_a_trace(site: Site) -> None:
    process, banner = site.up()
    family = family_of(process)
    secret = re.search(r"sk-penstock-\S+", banner)
    assert secret is not None
    request = urllib.request.Request(
        f"http://{HOST}:{site.port}/v1/chat/completions",
        json.dumps(
            {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        ).encode(),
        {"Authorization": f"Bearer {secret[0]}", "Content-Type": "application/json"},
    )

    answer = json.load(urllib.request.urlopen(request, timeout=WITHIN_S))
    code, status = site.status()
    second = site.run("up")
    engine = site.run("engine", "sim")
    stopped = site.run("stop")

    assert answer["choices"][0]["message"]["content"]
    assert (code, status["ready"], status["pid"]) == (0, True, process.pid)
    assert len(family) == 4
    assert second.returncode == 1
    assert f"Penstock is already running here (pid {process.pid}, http://{HOST}:{site.port})" in second.stderr
    assert engine.returncode == 1
    assert "the engine of sim is already running here" in engine.stderr
    assert (stopped.returncode, process.wait(WITHIN_S)) == (0, 0)
    site.assert_nothing_is_left(family)
    assert site.status()[0] == 3
    assert site.run("stop").returncode == 0


def test_a_second_start_shows_no_key_again(site: Site) -> None:
    site.run("keys", "create")

    process, banner = site.up()
    process.send_signal(signal.SIGINT)

    assert "sk-penstock-" not in banner
    assert "$PENSTOCK_API_KEY" in banner
    assert process.wait(WITHIN_S) == 0


def test_a_killed_supervisor_takes_everything_with_it_and_the_next_start_works(site: Site) -> None:
    process, _ = site.up()
    family = family_of(process)

    process.kill()

    _, alive = psutil.wait_procs(family[1:], timeout=WITHIN_S)
    assert not alive
    assert site.status()[0] == 3
    again, _ = site.up()
    again.send_signal(signal.SIGTERM)
    assert again.wait(WITHIN_S) == 0


def test_a_killed_engine_comes_back(site: Site) -> None:
    process, _ = site.up()
    _, before = site.status()
    replicas = before["replicas"]
    assert isinstance(replicas, list)

    os.kill(replicas[0]["pid"], signal.SIGKILL)

    def is_back() -> bool:
        code, now = site.status()
        found = now["replicas"]
        assert isinstance(found, list)
        return code == 0 and len(found) == 2 and found[0]["pid"] != replicas[0]["pid"]

    until(is_back)
    assert process.poll() is None


def test_a_taken_port_is_said_with_who_has_it(site: Site) -> None:
    with socket.create_server((HOST, site.port)):
        result = site.run("up")

    name = psutil.Process().name()
    assert result.returncode == 1
    assert result.stderr == (
        f"error: gateway.listen: {HOST}:{site.port} is in use by pid {os.getpid()} ({name}); "
        "stop it or set gateway.listen\n"
    )
    left = [path.name for path in (site.folder / ".penstock" / "run").rglob("*") if path.is_file()]
    assert left == []
    assert not (site.folder / ".penstock" / "keys.json").exists()


def test_an_engine_that_can_not_start_ends_it_with_the_cause_and_no_key(site: Site) -> None:
    config = (site.folder / "penstock.toml").read_text()
    (site.folder / "penstock.toml").write_text(config + "engine_args = { block_size = 0 }\n")

    result = site.run("up")

    assert result.returncode == 1
    assert "starts in a row failed" in result.stderr
    assert result.stdout == ""
    assert json.loads((site.folder / ".penstock" / "keys.json").read_text())["keys"] == []


def test_an_engine_alone_says_where_it_is_and_a_gateway_alone_finds_it(site: Site) -> None:
    engine = site.start("engine", "sim")
    assert engine.stdout is not None
    lines = [engine.stdout.readline() for _ in range(2)]

    gateway = site.start("gateway")

    assert [line.split()[0] for line in lines] == ["sim-0", "sim-1"]
    until(lambda: _is_ready(site.port))
    for process in (gateway, engine):
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/ready", timeout=WITHIN_S) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
