"""Penstock under a real systemd, which is PID 1 of a container without a network; run by `make test-systemd`.

The container is made from the image of `tools/install_systemd_image.sh`; Penstock is built from this tree, and its
units are rendered in there, as on a machine. Tests that break something come after those that look.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import DEMO
from tests.e2e.processes import wait_until

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/penstock-systemd:bookworm"
FOLDER = os.environ.get("PENSTOCK_TEST_SYSTEMD", "")
KEY = "sk-key-from-a-credential"
PATIENCE_S = 120.0

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("PENSTOCK_TEST_CONTAINERS") != "1" or shutil.which("podman") is None or not FOLDER,
        reason="no containers: run make test-systemd",
    ),
    pytest.mark.timeout(900),
]

CONFIG = f"""
[gateway]
drain_timeout = "60s"
[[models]]
name = "{DEMO}"
engine = "llamacpp"
source = "demo"
engine_args = {{ n_ctx = 8192, n_parallel = 2 }}
"""
SLOW = """
[[models]]
name = "slow"
engine = "sim"
engine_args = { load_s = 8.0 }
"""
BODY = {
    "model": DEMO,
    "messages": [{"role": "user", "content": "What is time to first token?"}],
    "temperature": 0,
}


CHAT = "/v1/chat/completions"
LONG = {**BODY, "stream": True, "max_tokens": 2000, "ignore_eos": True}


@dataclass(frozen=True)
class Machine:
    """A container that systemd runs in."""

    id: str

    def command(self, *argv: str) -> list[str]:
        return [*podman(), "exec", "-i", self.id, *argv]

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """What a command prints; it has to succeed unless `check` is off."""
        done = subprocess.run(self.command(*argv), input=stdin, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def succeeds(self, *argv: str) -> bool:
        return subprocess.run(self.command(*argv), capture_output=True).returncode == 0

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", f"mkdir -p {path.rpartition('/')[0]}; cat > {path}", stdin=text)

    def journal(self) -> str:
        done = subprocess.run(
            self.command("journalctl", "--no-pager", "-n", "60", "-o", "cat"), capture_output=True, text=True
        )
        return done.stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        text = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in text.splitlines())

    def state(self, unit: str = "penstock") -> str:
        return self.show(unit, "ActiveState")["ActiveState"]

    def main_pid(self, unit: str = "penstock") -> int:
        return int(self.show(unit, "MainPID")["MainPID"])

    def processes(self) -> dict[int, str]:
        """The processes of Penstock's user, with their command lines."""
        rows = self.run("ps", "-u", "penstock", "-o", "pid=,args=", check=False).splitlines()
        return {int(pid): args for pid, args in (row.split(maxsplit=1) for row in rows)}

    def engine_pid(self) -> int:
        return next((pid for pid, args in self.processes().items() if "llamacpp_server" in args), 0)

    def curl(self, path: str, body: dict[str, object] | None = None) -> list[str]:
        data = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body else []
        return self.command(
            *("curl", "-sSN", "-H", f"Authorization: Bearer {KEY}", *data, f"http://127.0.0.1:8080{path}")
        )

    def is_ready(self) -> bool:
        return self.succeeds("curl", "-sf", "http://127.0.0.1:8080/ready")

    def queue_length(self) -> float:
        page = self.run("curl", "-sS", "http://127.0.0.1:8081/metrics")
        return sum(map(float, re.findall(r"^penstock_queue_length\{.*\} (.*)$", page, re.MULTILINE)))

    def answer(self, model: str = DEMO) -> str:
        """What the model says."""
        reply = subprocess.run(self.curl(CHAT, {**BODY, "model": model}), capture_output=True, text=True)
        text: str = json.loads(reply.stdout)["choices"][0]["message"]["content"]
        return text

    def knows(self, model: str) -> bool:
        reply = subprocess.run(self.curl(CHAT, {**BODY, "model": model}), capture_output=True, text=True)
        return "choices" in json.loads(reply.stdout)

    def settle(self, toml: str = CONFIG) -> None:
        """Makes the service active with this configuration, however it was left."""
        self.write("/etc/penstock/penstock.toml", toml)
        self.run("systemctl", "reset-failed")
        self.run("systemctl", "restart", "penstock")


def podman() -> list[str]:
    return ["podman", "--root", f"{FOLDER}/storage", "--runroot", f"{FOLDER}/run", "--runtime", "runc"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with Penstock installed, its units rendered, and not started."""
    wheels = tmp_path_factory.mktemp("wheels")
    make_wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", str(ROOT)]
    subprocess.run([*make_wheel, "-w", str(wheels)], check=True)
    # what services that are walled off need; limits that the host may allow
    options = "--network none --systemd=always --cap-add SYS_ADMIN --security-opt seccomp=unconfined "
    options += "--security-opt apparmor=unconfined --ulimit nofile=4096:4096 --ulimit nproc=4096:4096"
    started = subprocess.run(
        [*podman(), "run", "-d", *options.split(), "-v", f"{wheels}:/wheels:ro", IMAGE],
        capture_output=True,
        text=True,
    )
    assert started.returncode == 0, started.stderr
    made = Machine(started.stdout.strip())
    try:
        wait_until(
            lambda: "running" in made.run("systemctl", "is-system-running", check=False),
            "systemd",
            PATIENCE_S,
        )
        made.run("mount", "--make-rshared", "/")  # as on a machine: credentials are handed on by mounts
        made.run("sh", "-c", "/opt/penstock/bin/pip install -q --no-deps --no-index /wheels/*.whl")
        made.run(
            "sh", "-c", "useradd --system --home-dir /var/lib/penstock --shell /usr/sbin/nologin penstock"
        )
        made.write("/etc/penstock/penstock.toml", CONFIG)
        made.run("install", "-d", "-m", "700", "/etc/credstore")
        made.write("/etc/credstore/penstock.env", f"GATEWAY_API_KEYS={KEY}\n")
        render(made)
        yield made
    finally:
        subprocess.run([*podman(), "rm", "-f", made.id], capture_output=True)


def render(machine: Machine) -> None:
    command = (
        "/opt/penstock/bin/penstock -c /etc/penstock/penstock.toml render systemd -o /etc/systemd/system"
    )
    machine.run("sh", "-c", f"{command} && systemctl daemon-reload")


@contextmanager
def setting(machine: Machine, *lines: str) -> Iterator[None]:
    """The service with these settings, as its owner would change them."""
    path = "/etc/systemd/system/penstock.service.d/test.conf"
    machine.write(path, "\n".join(("[Service]", *lines, "")))
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        machine.run("rm", path)
        machine.run("systemctl", "daemon-reload")


@contextmanager
def open_stream(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """A long answer of the demo model, whose first event has come."""
    with subprocess.Popen(machine.curl(CHAT, LONG), stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        assert stream.stdout.readline().startswith("data: ")
        yield stream


@contextmanager
def in_line(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """Another one, that waits for the first to end."""
    with subprocess.Popen(machine.curl(CHAT, LONG), stdout=subprocess.PIPE, text=True) as stream:
        wait_until(lambda: machine.queue_length() == 1, "it to wait in line", PATIENCE_S)
        yield stream


def rest(stream: subprocess.Popen[str]) -> list[str]:
    """The data of the events that are still to come."""
    assert stream.stdout is not None
    return [
        line.removeprefix("data: ") for line in stream.stdout.read().splitlines() if line.startswith("data: ")
    ]


def test_the_service_is_active_only_once_it_serves_and_tells_what_it_waits_for(machine: Machine) -> None:
    machine.write("/etc/penstock/penstock.toml", CONFIG + SLOW)
    said = set()

    with setting(machine, "TimeoutStartSec=4"):  # the load takes longer, and is given the time
        machine.run("systemctl", "start", "--no-block", "penstock")
        while (shown := machine.show("penstock", "ActiveState", "StatusText"))["ActiveState"] == "activating":
            said.add(shown["StatusText"])
        assert shown["ActiveState"] == "active", machine.journal()
        assert machine.is_ready()

    assert any("slow" in text for text in said), said
    wait_until(
        lambda: machine.show("penstock", "StatusText")["StatusText"] == "all parts are up", "its status"
    )


def test_a_chat_is_answered_with_the_key_from_the_credential(machine: Machine) -> None:
    machine.settle()

    assert "token" in machine.answer()
    assert KEY not in machine.run("systemctl", "show", "penstock")
    assert KEY not in machine.run("journalctl", "--no-pager")


def test_no_process_may_more_than_it_should(machine: Machine) -> None:
    machine.settle()

    processes = machine.processes()

    assert len(processes) >= 3, processes
    for pid in processes:
        status = machine.run("cat", f"/proc/{pid}/status", check=False)
        if not status:  # one that had little to do
            continue
        assert re.search(r"CapEff:\s0+$", status, re.MULTILINE)
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        environ = machine.run("cat", f"/proc/{pid}/environ", check=False)
        assert pid == machine.main_pid() or "NOTIFY_SOCKET" not in environ


def test_a_reload_is_followed_and_one_with_a_mistake_fails_and_changes_nothing(machine: Machine) -> None:
    machine.settle()
    before = machine.main_pid()

    machine.write("/etc/penstock/penstock.toml", CONFIG.replace("engine =", 'aliases = ["other"]\nengine ='))
    machine.run("systemctl", "reload", "penstock")
    by_alias = machine.answer("other")
    machine.write("/etc/penstock/penstock.toml", "[gateway]\nlisten = 7\n")
    refused = not machine.succeeds("systemctl", "reload", "penstock")

    assert by_alias
    assert refused
    assert machine.state() == "active"
    assert machine.main_pid() == before
    assert machine.answer()


def test_stopping_lets_an_open_stream_and_one_that_waits_in_line_end_whole(machine: Machine) -> None:
    machine.settle(CONFIG + "concurrency = 1\n")

    with open_stream(machine) as stream, in_line(machine) as waiting:
        machine.run("systemctl", "stop", "penstock")
        events, later = rest(stream), rest(waiting)

    for ended in (events, later):
        assert ended[-1] == "[DONE]", ended[-3:]
        assert json.loads(ended[-2])["choices"][0]["finish_reason"] == "length"
    assert machine.show("penstock", "ActiveState", "Result") == {
        "ActiveState": "inactive",
        "Result": "success",
    }
    assert machine.processes() == {}


def test_an_engine_that_is_killed_is_started_again_by_its_supervisor(machine: Machine) -> None:
    machine.settle()
    main, engine = machine.main_pid(), machine.engine_pid()

    machine.run("kill", "-KILL", str(engine))
    wait_until(lambda: machine.engine_pid() not in (0, engine), "another engine", PATIENCE_S)
    wait_until(machine.is_ready, "it to serve", PATIENCE_S)

    assert machine.main_pid() == main
    assert machine.show("penstock", "NRestarts") == {"NRestarts": "0"}
    assert machine.answer()


def test_a_loop_that_hangs_is_ended_and_started_again_and_nothing_of_it_is_left(machine: Machine) -> None:
    with setting(machine, "WatchdogSec=4"):
        machine.settle()
        before = machine.processes()

        machine.run("kill", "-STOP", str(machine.main_pid()))
        wait_until(lambda: machine.show("penstock", "NRestarts")["NRestarts"] == "1", "systemd", PATIENCE_S)
        wait_until(lambda: machine.state() == "active", "another supervisor", PATIENCE_S)

    assert not before.keys() & machine.processes().keys()
    journal = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", "penstock")
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal  # and where it was
    assert machine.answer()


def test_a_main_process_that_is_killed_leaves_no_process(machine: Machine) -> None:
    with setting(machine, "Restart=no"):
        machine.settle()

        machine.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "penstock")
        wait_until(lambda: machine.state() == "failed", "systemd", PATIENCE_S)

    assert machine.processes() == {}


def test_in_parts_an_engine_that_is_stopped_lets_its_streams_end_whole(machine: Machine) -> None:
    machine.run("systemctl", "reset-failed")
    machine.write("/etc/penstock/penstock.toml", CONFIG)
    engine = f"penstock-engine@{DEMO}"

    machine.run("systemctl", "start", "penstock.target")
    wait_until(lambda: machine.state(engine) == "active", "the engine", PATIENCE_S)
    wait_until(machine.is_ready, "the gateway to serve", PATIENCE_S)
    with open_stream(machine) as stream:
        machine.run("systemctl", "restart", engine)
        events = rest(stream)
    wait_until(machine.is_ready, "the next engine to serve", PATIENCE_S)
    again = machine.answer()
    machine.write("/etc/penstock/penstock.toml", CONFIG.replace("engine =", 'aliases = ["other"]\nengine ='))
    machine.run("systemctl", "reload", "penstock-gateway")
    wait_until(lambda: machine.knows("other"), "the gateway to follow", PATIENCE_S)
    machine.run("systemctl", "stop", "penstock.target")
    wait_until(lambda: machine.processes() == {}, "the end of all parts", PATIENCE_S)

    assert events[-1] == "[DONE]"
    assert again
    for unit in (engine, "penstock-gateway"):
        assert machine.show(unit, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
