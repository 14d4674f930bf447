"""How many requests a remote engine holds is learned from its metrics: its queue moves to the gateway's line."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.processes import Gateway, Sim, ready_gateway, remote, sim_engine, wait_until

BATCH = 4
CALLERS = 16


@contextmanager
def busy(front: Gateway) -> Iterator[None]:
    """Callers who ask again as soon as they are answered."""
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            assert front.ask("hi", "m", max_tokens=30, ignore_eos=True).status == 200

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call) for _ in range(CALLERS)]
        try:
            yield
        finally:
            stop.set()
        for one in calls:
            one.result()


def permits(front: Gateway) -> int:
    (replica,) = front.admin("/admin/fleet").json()["replicas"]
    concurrency: int = replica["concurrency"]
    return concurrency


def in_engine(engine: Sim) -> tuple[float, float]:
    """What it runs, and what waits in its own queue."""
    text = engine.request("GET", "/metrics").body.decode()
    names = ("running", "waiting")
    found = [re.search(rf"^vllm:num_requests_{name}(?:{{.*}})? (\S+)", text, re.MULTILINE) for name in names]
    running, waiting = (float(one[1]) for one in found if one)
    return running, waiting


def test_the_permits_of_a_remote_engine_come_to_what_it_runs_and_it_is_kept_busy(folder: Path) -> None:
    options = ("--model", "m", "--max-num-seqs", str(BATCH), "--base-step-s", "0.01")
    with (
        sim_engine(folder, *options) as engine,
        ready_gateway(folder, remote("m", engine)) as front,
        busy(front),
    ):
        wait_until(lambda: in_engine(engine)[1] > BATCH, "the engine to have a queue")
        wait_until(lambda: permits(front) <= BATCH + 2, "the permits to be learned")
        wait_until(lambda: in_engine(engine)[1] <= 2, "its queue to be short")
        looks = [in_engine(engine) for _ in range(100)]
        line = front.admin("/admin/queues").json()["queues"]["m"]

        learned = permits(front)

    assert BATCH <= learned <= BATCH + 3
    assert max(waiting for _, waiting in looks) <= BATCH  # without learning it would be 12
    assert sum(running == BATCH for running, _ in looks) >= 80
    assert line["length"] >= CALLERS - BATCH - 4
