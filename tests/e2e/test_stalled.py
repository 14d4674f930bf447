"""An engine stands still while its server answers: its requests go elsewhere, and it comes back once it moves."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Sim, penstock_up, ready_gateway, remote, sim_engine, wait_until
from tests.e2e.test_continuation import CHAT, ask, assert_one_answer, events_of, open_stream, read_until

STALL_S = 2.0
EXTRA = (
    f'routing = "round_robin"\nhealth = {{ stall = "{STALL_S}s" }}\n'
    'timeouts = { first_token = "60s", stall = "60s", total = "120s" }'
)
LONG = {"max_tokens": 200}

Pair = tuple[Gateway, Sim, Sim]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A gateway before two simulated engines, which take 4 s for a long answer."""
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(sim_engine(tmp_path, "--model", "m", "--base-step-s", "0.02")) for _ in "ab"
        )
        yield stack.enter_context(ready_gateway(tmp_path, remote("m", one, two, extra=EXTRA))), one, two


def freeze(engine: Sim, seconds: float) -> None:
    """Stops all steps of the engine; what asked for it is not waited for."""
    with engine.connect() as sock:
        body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 1, "sim_fault": f"freeze={seconds}s"})
        key = "".join(f"{name}: {value}\r\n" for name, value in engine.headers.items())
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {len(body)}\r\n\r\n"
        sock.sendall((head + body).encode())
        wait_until(lambda: engine.seen()["requests"], "the engine to be frozen")


def fleet(front: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = front.admin("/admin/fleet").json()["replicas"]
    return found


def replica(front: Gateway, number: int) -> dict[str, Any]:
    return next((one for one in fleet(front) if one["name"] == f"m-{number}"), {"state": "absent"})


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
    """So many requests at once; the events of their answers are complete at the end."""
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
    front, engines = pair[0], pair[1:]
    whole = events_of(front, CHAT, ask(**LONG))

    with answers(front, 6, **LONG) as found:
        number = wait_until(lambda: _holder(front), "the streams") - 1
        freeze(engines[number], 8.0)
        frozen_s = time.monotonic()
        wait_until(lambda: state(front, number) == "stalled", "the stall to be seen")
        took_s = time.monotonic() - frozen_s
        seen = replica(front, number)
        health = engines[number].request("GET", "/health").status
        others = [front.ask("hi", "m", max_tokens=2).status for _ in range(4)]

    assert took_s >= STALL_S - 0.5
    assert health == 200
    assert others == [200] * 4
    assert len(found) == 6
    for events in found:
        assert_one_answer(events, whole)
    assert re.fullmatch(r"no progress for \d\.\d s", seen["cause"])
    assert re.search(r"requests?, no step for \d\.\d s \(vllm:iteration_tokens_total_count", seen["evidence"])
    assert seen["evidence"].endswith("/v1/models says 200")
    wait_until(lambda: state(front, number) == "ready", "it to be ready again")
    assert moves(front, number)[-3:] == [("ready", "stalled"), ("stalled", "warming"), ("warming", "ready")]
    assert replica(front, number)["in_flight"] == 0


def _holder(front: Gateway) -> int:
    """The place, from 1, of the replica that has most of six streams; 0 until all are there."""
    held = [one["in_flight"] for one in fleet(front)]
    return 1 + held.index(max(held)) if sum(held) == 6 else 0


def test_what_has_no_byte_yet_is_asked_for_elsewhere_and_nobody_is_blamed_for_it(pair: Pair) -> None:
    front, one, _ = pair
    freeze(one, 6.0)

    plain = {"stream": False, "max_tokens": 3}
    with answers(front, 6, max_tokens=3) as found:  # half of them come to the one that stands still
        replies = [
            front.request("POST", CHAT, ask(**plain), {"X-Request-Id": f"plain-{i}"}) for i in range(2)
        ]

    assert [reply.status for reply in replies] == [200, 200]
    assert [events[-1] for events in found] == ["[DONE]"] * 6
    attempts = [front.record(f"plain-{number}")["attempts"] for number in range(2)]
    assert sorted(attempts) == [1, 2]
    wait_until(lambda: state(front, 0) == "ready", "it to be ready again")
    assert '"trust"' not in front.log.read_text()  # nobody was ejected
    statuses = [front.ask("hi", "m", max_tokens=1) for _ in range(40)]
    assert {reply.headers["x-penstock-replica"] for reply in statuses} == {"m-0", "m-1"}


def test_where_nobody_else_is_it_ends_with_an_error_and_later_requests_are_told_why(tmp_path: Path) -> None:
    with (
        sim_engine(tmp_path, "--model", "m", "--base-step-s", "0.02") as engine,
        ready_gateway(tmp_path, remote("m", engine, extra=EXTRA)) as front,
    ):
        with open_stream(front, ask(logprobs=True, **LONG), "lost") as sock:  # which is not continued
            said = read_until(sock, b'"content"')
            freeze(engine, 12.0)
            said += read_until(sock, b"0\r\n\r\n")
        reply = front.ask("hi", "m", max_tokens=1)
        status = front.penstock("status").stdout

        assert b"[DONE]" not in said
        assert b'"engine_stalled"' in said
        assert reply.status == 503
        assert "m-0 is stalled: no progress for 2." in reply.json()["error"]["message"]
        assert int(reply.headers["retry-after"]) >= 1
        assert "stalled" in status
        wait_until(lambda: state(front, 0) == "ready", "it to be ready again")
        assert front.ask("hi", "m", max_tokens=1).status == 200
        assert front.record("lost")["error_code"] == "engine_stalled"


def test_an_engine_with_more_than_it_can_run_is_busy_serves_and_never_stalls(tmp_path: Path) -> None:
    slow = ("--base-step-s", "0.25", "--max-num-seqs", "2", "--prefill-s-per-token", "0.002")
    extra = EXTRA + "\nconcurrency = 2"
    with (
        sim_engine(tmp_path, "--model", "m", *slow, "--max-num-batched-tokens", "300") as engine,
        ready_gateway(tmp_path, remote("m", engine, extra=extra)) as front,
    ):
        long_prompt = [{"role": "user", "content": "word " * 1500}]  # six steps and more without a token
        with (
            answers(front, 4, max_tokens=4, messages=long_prompt) as found,
            answers(front, 2, max_tokens=2, messages=long_prompt, stream=False) as plain,
        ):
            wait_until(lambda: state(front, 0) == "busy", "it to be busy")
            busy = replica(front, 0)

        assert [events[-1] for events in found] == ["[DONE]"] * 4
        assert len(plain) == 2
        assert busy["evidence"] == "2 of 2 permits are out"
        assert front.request("GET", "/ready").status == 200
        wait_until(lambda: state(front, 0) == "ready", "it to have room again")
        assert {after for _, after in moves(front, 0)[-2:]} == {"busy", "ready"}
        assert not [move for move in moves(front, 0) if "stalled" in move]


UP = """
[[models]]
name = "m"
engine = "sim"
replicas = 2
engine_args = { load_s = 5 }
health = { stall = "2s", restart_after = "2s" }
"""


def test_one_that_stays_stalled_is_started_again_and_tells_how_far_it_is(tmp_path: Path) -> None:
    with penstock_up(tmp_path, UP) as stack:
        own = json.loads((stack.home / "run" / "replicas" / "m-0.json").read_text())
        engine = Sim(
            stack.process,
            int(own["url"].rpartition(":")[2]),
            stack.log,
            {"Authorization": f"Bearer {own['api_key']}"},
        )
        freeze(engine, 600.0)
        with answers(stack, 4, max_tokens=3) as found:
            pass

        loading = wait_until(lambda: _loading(stack), "it to load anew")
        ready = stack.request("GET", "/ready").status
        wait_until(lambda: state(stack, 0) == "ready", "it to be ready again")

        assert [events[-1] for events in found] == ["[DONE]"] * 4
        assert re.fullmatch(r"loading; \S+ [KMG]B in memory; \d+ s.* the \d+ s of last time", loading)
        assert ready == 200  # by the other one
        assert "m-0 is restarted: it has been stalled for" in stack.log.read_text()
        assert json.loads((stack.home / "run" / "replicas" / "m-0.json").read_text())["pid"] != own["pid"]


def _loading(stack: Gateway) -> str:
    cause = next((one["cause"] for one in fleet(stack) if one["name"] == "m-0"), "")
    return cause if cause.startswith("loading") else ""
