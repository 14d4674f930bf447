"""The gaps between tokens that a gateway shows are those that its clients measured."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.gateway.streams import MEASURED_ONE_IN
from tests.e2e.processes import PATIENCE_S, Gateway, Sim, ready_gateway, remote, sim_engine, wait_until
from tests.e2e.test_metrics import page, total

STEP_S = 0.05
# How late a client of a busy machine may read, at the beginning and at the end of a stream.
LATE_S = 0.4


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Sim, Sim]]:
    """A gateway before two engines of a known time for each token."""
    folder: Path = tmp_path_factory.mktemp("itl")
    step = ("--base-step-s", str(STEP_S), "--step-s-per-seq", "0")
    with ExitStack() as stack:
        one, two = (stack.enter_context(sim_engine(folder, "--model", "m", *step)) for _ in range(2))
        yield stack.enter_context(ready_gateway(folder, remote("m", one, two))), one, two


def gaps(front: Gateway, tokens: int) -> list[float]:
    """The times between the tokens of a stream, as its client measures them."""
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE_S)
    chat = [{"role": "user", "content": "Tell me."}]
    body = {"model": "m", "messages": chat, "max_tokens": tokens, "temperature": 0, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), front.headers)
    response = connection.getresponse()
    came_s, done = [], False
    while line := response.readline():
        now_s, data = time.monotonic(), line.removeprefix(b"data: ").strip()
        if data.startswith(b"{"):
            choices = json.loads(data).get("choices", ())
            came_s += [now_s for choice in choices if choice["delta"].get("content")]
        done = done or data == b"[DONE]"
    connection.close()
    assert done
    return [later - earlier for earlier, later in pairwise(came_s)]


def shown(front: Gateway, part: str, **labels: str) -> float:
    return total(page(front), f"penstock_itl_seconds_{part}", model="m", **labels)


def ended(front: Gateway, requests: int) -> None:
    wait_until(lambda: total(page(front), "penstock_requests_total", model="m") == requests, "their records")


def test_one_stream_in_eight_is_shown_as_its_client_measured_it(pair: tuple[Gateway, Sim, Sim]) -> None:
    front, one, two = pair

    first = gaps(front, 40)

    ended(front, 1)
    assert shown(front, "count") == len(first) == 39
    assert abs(shown(front, "sum") - sum(first)) < LATE_S
    assert sum(first) > 39 * STEP_S - LATE_S
    # most are as the engine made them
    assert shown(front, "bucket", le="0.03") < 39 / 2 < shown(front, "bucket", le="0.1")

    for _ in range(MEASURED_ONE_IN - 1):
        assert len(gaps(front, 2)) == 1
    ended(front, MEASURED_ONE_IN)
    assert shown(front, "count") == 39

    for engine in (one, two):
        engine.script("reset_after_tokens=8")
    continued = gaps(front, 30)

    ended(front, MEASURED_ONE_IN + 1)
    assert total(page(front), "penstock_continuations_total", model="m") >= 1
    assert shown(front, "count") == 39 + len(continued)
    assert abs(shown(front, "sum") - sum(first) - sum(continued)) < 2 * LATE_S
