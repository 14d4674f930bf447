"""An engine stands still while its server answers: its requests go elsewhere, and it comes back once it moves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Sim, ready_gateway, remote, sim_engine, wait_until
from tests.e2e.test_continuation import CHAT, ask, assert_one_answer, events_of

STALL_S = 2.0
EXTRA = (
    f'routing = "round_robin"\nhealth = {{ stall = "{STALL_S}s" }}\n'
    'timeouts = { first_token = "60s", stall = "60s", total = "120s" }'
)
LONG = {"max_tokens": 120}

Pair = tuple[Gateway, Sim, Sim]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A gateway before two simulated engines, which take 2.4 s for a long answer."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(sim_engine(tmp_path, "--model", "m", "--base-step-s", "0.02")) for _ in "ab"
        )
        yield stack.enter_context(ready_gateway(tmp_path, remote("m", one, two, extra=EXTRA))), one, two


def freeze(engine: Sim, seconds: float) -> None:
    """Stops all steps of the engine; what asked for it is not waited for."""
    with engine.connect() as sock:
        body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 1, "sim_fault": f"freeze={seconds}s"})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall((head + body).encode())
        wait_until(lambda: engine.seen()["requests"], "the engine to be frozen")


def replica(front: Gateway, number: int) -> dict[str, Any]:
    found: dict[str, Any] = front.admin("/admin/fleet").json()["replicas"][number]
    return found


def state(front: Gateway, number: int) -> str:
    return str(replica(front, number)["state"])


def moves(front: Gateway, number: int) -> list[tuple[str, str]]:
    """The changes of state of a replica, as logged."""
    lines = [json.loads(line) for line in front.log.read_text().splitlines() if line.startswith("{")]
    return [
        (one["before"], one["after"])
        for one in lines
        if one.get("replica") == f"m-{number}" and "after" in one
    ]


@contextmanager
def answers(server: Gateway, count: int, **members: Any) -> Iterator[list[list[Any]]]:
    """So many streams at once; their events are complete at the end."""
    found: list[list[Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(events_of(server, CHAT, ask(**members))))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    yield found
    for thread in threads:
        thread.join(60)


def test_streams_of_an_engine_that_stands_still_go_on_elsewhere_and_it_comes_back(pair: Pair) -> None:
    front, one, _ = pair
    whole = events_of(front, CHAT, ask(**LONG))

    with answers(front, 6, **LONG) as found:
        wait_until(
            lambda: replica(front, 0)["in_flight"] == 3 == replica(front, 1)["in_flight"], "the streams"
        )
        time.sleep(0.3)
        freeze(one, 8.0)
        frozen_s = time.monotonic()
        wait_until(lambda: state(front, 0) == "stalled", "the stall to be seen")
        took_s = time.monotonic() - frozen_s
        seen = replica(front, 0)
        health = one.request("GET", "/health").status
        others = [front.ask("hi", "m", max_tokens=2).status for _ in range(4)]

    assert STALL_S - 0.5 <= took_s <= STALL_S + 2.0
    assert health == 200
    assert others == [200] * 4
    assert len(found) == 6
    for events in found:
        assert_one_answer(events, whole)
    assert seen["cause"].startswith("no progress for 2.")
    assert "requests, no step for" in seen["evidence"]
    assert "vllm:iteration_tokens_total_count stays at" in seen["evidence"]
    assert seen["evidence"].endswith("/health says 200") or seen["evidence"].endswith("/v1/models says 200")
    wait_until(lambda: state(front, 0) == "ready", "it to be ready again")
    assert moves(front, 0)[-3:] == [("ready", "stalled"), ("stalled", "warming"), ("warming", "ready")]
    assert replica(front, 0)["in_flight"] == 0
