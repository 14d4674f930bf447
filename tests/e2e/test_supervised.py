"""`penstock up` for real: engines that are killed come back, and what is stopped is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from penstock.core.config import Address
from penstock.engines.client import EngineClient
from penstock.supervisor.parts import readiness
from tests.e2e.conftest import DEMO
from tests.e2e.processes import (
    Gateway,
    environment,
    free_port,
    gateway,
    penstock_up,
    stop,
    wait_until,
)
from tests.e2e.test_streams import open_stream, read_until

LONG = "Count from one to one hundred."


@pytest.fixture
def stack(folder: Path) -> Iterator[Gateway]:
    with penstock_up(folder) as server:
        yield server


def engine_pids(server: Gateway) -> list[int]:
    return [json.loads(path.read_text())["pid"] for path in (server.home / "run" / "replicas").glob("*.json")]


def test_a_killed_engine_comes_back_and_goes_on_with_its_answer(stack: Gateway) -> None:
    (pid,) = engine_pids(stack)
    ask = {
        "model": DEMO,
        "messages": [{"role": "user", "content": LONG}],
        "max_tokens": 1500,
        "ignore_eos": True,
    }
    with open_stream(stack, ask) as sock:
        read_until(sock, b'"content":"')
        os.kill(pid, signal.SIGKILL)
        rest = read_until(sock, b"0\r\n\r\n")

    assert b'"error"' not in rest
    assert b"[DONE]" in rest
    wait_until(lambda: [new for new in engine_pids(stack) if new != pid], "the engine to be started again")
    wait_until(lambda: stack.request("GET", "/ready").status == 200, "the engine to be ready again")
    assert stack.ask("Hello", DEMO, max_tokens=8).status == 200


def test_a_gateway_on_any_free_port_is_found_by_the_commands(folder: Path) -> None:
    anywhere = {"PENSTOCK_GATEWAY__LISTEN": "127.0.0.1:0", "PENSTOCK_GATEWAY__ADMIN": "127.0.0.1:0"}
    with penstock_up(folder, **anywhere) as server:
        seen = json.loads(server.penstock("status", "--json").stdout)
        server.port = Address.parse(seen["url"].removeprefix("http://")).port

        assert seen["ready"], seen
        assert seen["workers"] == 1  # which its admin API has told
        assert server.request("GET", "/ready").status == 200


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_gateway_alone_logs_its_free_port_and_commands_say_what_they_lack(folder: Path) -> None:
    model = f'[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:{free_port()}"\n'
    (folder / "penstock.toml").write_text(
        f'[gateway]\nlisten = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n{model}'
    )
    environ = environment(folder / "home", GATEWAY_API_KEYS="k")
    command, log = [sys.executable, "-m", "penstock"], folder / "log"
    with log.open("w") as sink:
        alone = subprocess.Popen(
            [*command, "gateway"], cwd=folder, env=environ, stdout=sink, stderr=sink, text=True
        )
    try:
        wait_until(lambda: '"starting"' in log.read_text(), "the gateway to start")
        port = Address.parse(json.loads(log.read_text().splitlines()[0])["listen"]).port
        wait_until(lambda: listens(port), "it to listen")
        drain = subprocess.run(
            [*command, "drain", "m-0"], cwd=folder, env=environ, capture_output=True, text=True
        )
    finally:
        stop(alone)

    assert "error: gateway.admin: it has port 0" in drain.stderr


def test_with_two_replicas_a_killed_one_is_not_noticed(sim_stack: Gateway) -> None:
    pid = engine_pids(sim_stack)[0]

    os.kill(pid, signal.SIGKILL)
    replies = [sim_stack.ask("hello", "sim-model", max_tokens=2) for _ in range(20)]

    assert [reply.status for reply in replies] == [200] * 20
    wait_until(lambda: len(set(engine_pids(sim_stack)) - {pid}) == 2, "the replica to be back")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_leaves_no_process_port_or_lock(folder: Path, number: signal.Signals) -> None:
    with penstock_up(folder) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)

        code = server.stop(number)

        assert code == 0
        assert not any(child.is_running() for child in children)
        for port in (server.port, server.admin_port):  # a listener would be in the way
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", port))
        assert [path for path in (server.home / "run").rglob("*") if path.is_file()] == []


def has_ended(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def test_killing_the_supervisor_itself_leaves_no_child(folder: Path) -> None:
    with penstock_up(folder) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)

        server.stop(signal.SIGKILL)

        # One that has ended may wait to be collected: by this process, where another test made it adopt orphans.
        wait_until(lambda: all(map(has_ended, children)), "the children to end")
    with penstock_up(folder) as again:
        again.headers = server.headers
        assert again.ask("Hello", DEMO, max_tokens=4).status == 200


def test_the_supervisor_learns_from_the_gateway_why_a_model_is_not_ready(folder: Path) -> None:
    nobody = free_port()
    model = f'[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:{nobody}"\n'

    async def ask(server: Gateway) -> str:
        with closing(EngineClient()) as client:
            return await readiness(client, Address("127.0.0.1", server.port))

    with gateway(folder, model) as server:
        reason = wait_until(
            lambda: said if "nothing answers" in (said := asyncio.run(ask(server))) else "", "the first probe"
        )

    assert reason.startswith("m: m-0 is starting: ")


def test_a_dotenv_with_the_usual_names_works(folder: Path) -> None:
    (folder / ".env").write_text(
        "MODEL_NAME=penstock-demo\nGATEWAY_API_KEYS=dev-key-1,dev-key-2\nMAX_MODEL_LEN=8192\nSWAP_SPACE_GB=4\n"
    )
    with penstock_up(folder) as server:
        server.headers = {"Authorization": "Bearer dev-key-2"}
        answer = server.ask("Hello", DEMO, max_tokens=4)

    said = server.log.read_text()
    assert answer.status == 200
    assert "SWAP_SPACE_GB" in said
    assert "MAX_MODEL_LEN" in said
    assert "dev-key" not in said
