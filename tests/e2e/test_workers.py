"""Several gateway processes on one address are one gateway."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.processes import Gateway, Sim, ready_gateway, remote, sim_engine, wait_until

TENANTS = '[[tenants]]\nname = "few"\nrequests_per_minute = 5\n'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m") as sim:
        yield sim


@pytest.fixture
def front(folder: Path, engine: Sim) -> Iterator[Gateway]:
    with ready_gateway(folder, remote("m", engine) + TENANTS, PENSTOCK_GATEWAY__WORKERS="2") as server:
        wait_until(lambda: workers(server) == 2 and all_ready(server), "both workers")
        wait_until(lambda: server.log.read_text().count(": up after ") == 2, "their parent to know")
        yield server


def workers(front: Gateway) -> int:
    reply = front.admin("/admin/overview")
    count: int = reply.json()["workers"] if reply.status == 200 else 0
    return count


def all_ready(front: Gateway) -> bool:
    """Whether whichever worker the kernel chooses is ready."""
    return all(front.request("GET", "/ready").status == 200 for _ in range(12))


def pids(front: Gateway) -> list[int]:
    return [child.pid for child in psutil.Process(front.process.pid).children()]


def test_both_serve_and_keep_one_limit_together(front: Gateway) -> None:
    secret = json.loads(front.penstock("keys", "create", "--tenant", "few", "--json").stdout)["secret"]
    bearer = {"Authorization": f"Bearer {secret}"}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    for _ in range(20):  # on whichever worker: both have to know the key
        wait_until(
            lambda: front.request("GET", "/v1/models", headers=bearer).status == 200, "the key to be known"
        )

    statuses = [front.request("POST", "/v1/chat/completions", body, bearer).status for _ in range(20)]

    assert sorted(statuses) == [200] * 5 + [429] * 15

    def served() -> list[int]:
        logs = (front.home / "logs").glob("gateway-*.log")
        return [log.read_text().count('"event":"request"') for log in logs]

    wait_until(lambda: sum(served()) >= 20, "all requests to be logged")
    assert len(served()) == 2
    assert min(served()) > 0  # the kernel has shared out the connections


def test_a_killed_worker_is_replaced_and_its_parallel_requests_are_given_back(front: Gateway) -> None:
    victim = pids(front)[0]
    os.kill(victim, signal.SIGKILL)

    wait_until(lambda: victim not in pids(front) and len(pids(front)) == 2, "another worker")
    wait_until(lambda: workers(front) == 2 and all_ready(front), "both workers to tell of themselves")
    assert front.ask("hi", "m").status == 200
    parallel = {one["subject_id"]: one["parallel"] for one in front.admin("/admin/limits").json()["limits"]}
    assert set(parallel.values()) == {0}


def test_a_reload_reaches_every_worker_once(front: Gateway) -> None:
    file = front.log.parent / "penstock.toml"
    rest = file.read_text()

    def reload_to(kilobytes: int) -> None:
        file.write_text(f'[gateway]\nbody_max = "{kilobytes}KB"\n{rest}')
        before = min(reloads(front))
        assert front.admin("/admin/reload", "POST").status == 200
        big = "x" * 1000 * kilobytes
        wait_until(lambda: all(front.ask(big, "m").status == 413 for _ in range(20)), "all to refuse")
        wait_until(lambda: min(reloads(front)) > before, "all to say so")

    reload_to(4)
    reload_to(2)

    assert reloads(front) == [2, 2]


def reloads(front: Gateway) -> list[int]:
    logs = (front.home / "logs").glob("gateway-*.log")
    return [log.read_text().count('"event":"reloaded"') for log in logs]


@pytest.mark.parametrize("path", ["/admin/overview", "/metrics"])
def test_a_slow_disk_holds_up_who_looks_at_the_workers_and_nobody_else(front: Gateway, path: str) -> None:
    slow = front.home / "run" / "workers" / "9.json"
    assert slow.parent.is_dir()
    os.mkfifo(slow)  # what reads it waits until somebody writes

    with ThreadPoolExecutor(1) as pool:
        look = pool.submit(front.admin, path)
        try:
            time.sleep(0.2)
            served = [front.ask("hi", "m", max_tokens=1).status for _ in range(20)]
            waits = not look.done()
        finally:
            slow.write_text("{}")
        status = look.result().status

    assert served == [200] * 20  # on both workers
    assert (waits, status) == (True, 200)


def test_no_counter_falls_whichever_worker_shows_it(front: Gateway) -> None:
    seen: dict[str, float] = {}
    for _ in range(40):
        assert front.ask("hi", "m", max_tokens=1).status == 200
        for line in front.admin("/metrics", key="").body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.startswith(("penstock_requests_total", "penstock_request_duration_seconds_count")):
                assert float(value) >= seen.get(series, 0), series
                seen[series] = float(value)


def test_sigterm_ends_every_worker(front: Gateway) -> None:
    children = pids(front)

    assert front.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in children)


def test_metrics_are_those_of_all_workers(front: Gateway) -> None:
    for _ in range(20):
        assert front.ask("hi", "m").status == 200

    def counted() -> float:
        lines = front.admin("/metrics", key="").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("penstock_requests_total{"))

    wait_until(lambda: counted() == 20, "all requests to be counted")
