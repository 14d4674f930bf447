"""Several gateways that share a real Redis keep one limit; without it they go on, each on its own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, Sim, free_port, ready_gateway, remote, sim_engine, wait_until
from tests.tools import needs

TENANTS = '[[tenants]]\nname = "default"\nrequests_per_minute = 6\n'


@contextmanager
def redis_server(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real Redis that keeps nothing on disk."""
    argv = [needs("redis-server", "redis-server"), "--port", str(port), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([*argv, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _pings(port), "redis to answer")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _pings(port: int) -> bool:
    cli = [needs("redis-cli", "redis-tools"), "-p", str(port), "ping"]
    return b"PONG" in subprocess.run(cli, capture_output=True, check=False).stdout


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m", "--base-step-s", "0.001") as sim:
        yield sim


def shared(port: int) -> str:
    return f'[shared]\nredis = "redis://127.0.0.1:{port}/0"\n'


def statuses(count: int, *fronts: Gateway) -> list[int]:
    return [fronts[i % len(fronts)].ask("hi", "m", max_tokens=1).status for i in range(count)]


def logged(front: Gateway, word: str) -> bool:
    return word in front.log.read_text()


def test_two_gateways_keep_one_limit_and_go_on_without_redis(folder: Path, engine: Sim) -> None:
    port = free_port()
    toml = remote("m", engine) + TENANTS + shared(port)
    one, two = folder / "one", folder / "two"
    one.mkdir()
    two.mkdir()
    with redis_server(port, folder) as redis, ready_gateway(one, toml) as a, ready_gateway(two, toml) as b:
        wait_until(lambda: logged(a, "redis is there") and logged(b, "redis is there"), "both to share")

        together = statuses(12, a, b)

        assert sorted(together) == [200] * 6 + [429] * 6
        redis.send_signal(signal.SIGSTOP)  # slow beyond patience
        alone = statuses(4, a, b)
        assert set(alone) == {200}  # by the limits of each machine, which know nothing yet
        wait_until(lambda: logged(a, "redis is away"), "it to be said")
        assert b"penstock_shared_store_up 0\n" in a.admin("/metrics").body
        redis.send_signal(signal.SIGCONT)
        wait_until(lambda: b"penstock_shared_store_up 1\n" in a.admin("/metrics").body, "redis to be back")
        redis.kill()
        redis.wait()
        assert 200 in statuses(4, a, b)


def test_a_gateway_starts_and_serves_without_its_redis(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine) + shared(free_port())) as front:
        assert statuses(3, front) == [200] * 3
        wait_until(lambda: logged(front, "redis is away"), "it to be said")
        assert json.loads(front.penstock("status", "--json").stdout)["replicas"][0]["state"] == "ready"
