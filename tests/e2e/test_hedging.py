"""A second replica is asked while the first is silent; the loser stops at once, and one answer is charged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Reply, Sim, ready_gateway, remote, sim_engine, wait_until

Pair = tuple[Gateway, Sim, Sim]

HEDGED = 'routing = "round_robin"\nhedge_after = "150ms"'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A gateway that hedges, before two simulated engines."""
    folder = tmp_path_factory.mktemp("hedged")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(sim_engine(folder, "--model", "m", "--base-step-s", "0.002"))
            for _ in range(2)
        )
        yield stack.enter_context(ready_gateway(folder, remote("m", one, two, extra=HEDGED))), one, two


def ask(front: Gateway, name: str, **members: Any) -> Reply:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 8,
        "ignore_eos": True,
    }
    body.update(members)
    return front.request("POST", "/v1/chat/completions", body, {"X-Request-Id": name})


@pytest.mark.parametrize("streamed", [True, False])
def test_a_silent_replica_is_overtaken_by_another_and_stopped(pair: Pair, streamed: bool) -> None:
    front, one, two = pair
    before = one.seen()["cancelled"]
    one.script("stall_before_first")

    names = [f"overtaken-{streamed}-{number}" for number in range(2)]  # one of them comes to the silent one
    replies = [ask(front, name, stream=streamed) for name in names]

    assert [reply.status for reply in replies] == [200, 200]
    records = [front.record(name) for name in names]
    assert sorted((record["attempts"], record["replica"]) for record in records)[1] == (2, "m-1")
    assert [record["completion_tokens"] for record in records] == [8, 8]
    wait_until(lambda: one.seen()["running"] == two.seen()["running"] == 0, "the loser to stop")
    assert one.seen()["cancelled"] == before + 1


def test_a_replica_that_answers_in_time_is_not_hedged(pair: Pair) -> None:
    front, one, two = pair
    before = one.seen()["started"] + two.seen()["started"]

    replies = [ask(front, f"quick-{number}") for number in range(4)]

    assert [reply.status for reply in replies] == [200] * 4
    assert one.seen()["started"] + two.seen()["started"] == before + 4


def test_the_first_of_two_silent_replicas_to_speak_wins(pair: Pair) -> None:
    front, one, two = pair
    for engine in (one, two):
        engine.script("trickle=0.001;freeze=0.4s")

    reply = ask(front, "both", max_tokens=2)

    assert reply.status == 200
    wait_until(lambda: one.seen()["running"] == two.seen()["running"] == 0, "both to be done")


def test_a_replica_that_fails_in_the_race_leaves_it_to_the_other(pair: Pair) -> None:
    front, one, two = pair
    one.script("freeze=0.5s")
    two.script("status=500")

    names = [f"fails-{number}" for number in range(2)]
    replies = [ask(front, name) for name in names]
    for engine in (one, two):
        engine.script("no_usage", 0)

    assert [reply.status for reply in replies] == [200, 200]
