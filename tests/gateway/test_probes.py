"""A replica is asked for a token by a route that it has; one that has none proves nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from penstock.core.config import Address
from penstock.core.errors import DeadlineError, OverloadError, PenstockError, Phase
from penstock.engines.catalog import SPECS
from penstock.engines.client import ConnectRefusedError, Reply
from penstock.gateway.probes import EVIDENCE_CHARS_MAX, Probes, Seen
from penstock.policy.fleet import Event, Replica
from penstock.wire.exposition import Pulse

Answer = Reply | PenstockError
Answers = dict[str, Answer]
REPLICA = Replica("a", "m", "vllm", Address("h", 1), "secret")
SLOW = DeadlineError("too slow", phase=Phase.TOTAL)
UNCONNECTED = DeadlineError("no connection", phase=Phase.CONNECT)


def said(status: int, body: bytes = b"{}") -> Reply:
    return Reply(status, [], body)


class Client:
    """Answers each path as a test has said, else 404."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.bodies: dict[str, Any] = {}

    async def fetch(self, _: Address, __: bytes, target: bytes, **sent: Any) -> Reply:
        assert (b"authorization", b"Bearer secret") in sent["headers"]
        path = target.decode()
        if body := sent.get("body"):
            self.bodies[path] = msgspec.json.decode(body)
        answer = self._answers.get(path, said(404))
        if isinstance(answer, PenstockError):
            raise answer
        return answer


class Reached(Client):
    """Gives one answer after another."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__({})
        self._left = list(answers)
        self.closed_idle = 0

    async def fetch(self, address: Address, method: bytes, target: bytes, **sent: Any) -> Reply:
        self._answers = {target.decode(): self._left.pop(0)}
        return await super().fetch(address, method, target, **sent)

    def close_idle(self, _: Address) -> None:
        self.closed_idle += 1


def canary(answers: Answers) -> tuple[Seen, Client]:
    client: Any = Client(answers)
    return asyncio.run(Probes(client).canary(REPLICA, 1.0)), client


@pytest.mark.parametrize(
    ("route", "cause"),
    [
        ("/v1/completions", "a token came"),
        ("/v1/chat/completions", "a token came"),
        ("/v1/embeddings", "a vector came"),
    ],
)
def test_the_canary_takes_the_route_that_is_there(route: str, cause: str) -> None:
    seen, client = canary({route: said(200)})

    assert seen == (Event.WARMED, cause, "")
    assert client.bodies[route]["model"] == "m"
    assert client.bodies[route].get("max_tokens", 1) == 1


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_one_that_offers_none_of_them_is_mute(status: int) -> None:
    routes = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings")

    assert canary({route: said(status, b"no") for route in routes})[0][0] is Event.MUTE


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (said(500, b"broken"), Event.CANARY_FAILED),
        (said(429), Event.CANARY_FAILED),
        (SLOW, Event.CANARY_FAILED),
        (OverloadError("full", code="x"), Event.CANARY_FAILED),
        (ConnectRefusedError("refused"), Event.REFUSED),
    ],
)
def test_a_canary_that_failed_is_not_sent_by_another_route(
    answer: Reply | PenstockError, event: Event
) -> None:
    seen, client = canary({"/v1/completions": answer, "/v1/chat/completions": said(200)})

    assert seen[0] is event
    assert list(client.bodies) == ["/v1/completions"]


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (said(200), Event.HEALTHY),
        (said(503, b"x" * 1000), Event.UNREADY),
        (SLOW, Event.SLOW),
        (OverloadError("full", code="x"), Event.SLOW),
        (ConnectRefusedError("refused"), Event.REFUSED),
    ],
)
def test_the_health_check_tells_what_was_seen(answer: Reply | PenstockError, event: Event) -> None:
    client: Any = Reached(answer)

    seen = asyncio.run(Probes(client).health(REPLICA, SPECS["vllm"]))

    assert seen[0] is event
    assert len(seen[2]) <= EVIDENCE_CHARS_MAX
    # What is idle may lead to where packets are lost, and the next check would wait for it in vain.
    assert client.closed_idle == (event is Event.SLOW)


@pytest.mark.parametrize(
    ("answers", "event"),
    [
        ((UNCONNECTED, said(200)), Event.HEALTHY),
        ((UNCONNECTED, said(503)), Event.UNREADY),
        ((UNCONNECTED, SLOW), Event.SLOW),
        ((UNCONNECTED, UNCONNECTED), Event.REFUSED),
    ],
)
def test_that_no_connection_comes_about_is_believed_the_second_time(
    answers: tuple[Answer, ...], event: Event
) -> None:
    client: Any = Reached(*answers)

    assert asyncio.run(Probes(client).health(REPLICA, SPECS["vllm"]))[0] is event


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            said(200, b"vllm:iteration_tokens_total_count 7\nvllm:kv_cache_usage_perc 0.5\n"),
            (Pulse("vllm:iteration_tokens_total_count", 7.0, 0.5), ""),
        ),
        (said(200, b"llamacpp:n_decode_total 7\n"), (None, "")),  # of another engine
        (said(404), (None, "")),
        (said(503), (None, "/metrics says 503")),
        (SLOW, (None, "/metrics: too slow")),
    ],
)
def test_the_pulse_is_in_the_page_and_what_is_wrong_with_it_is_told(
    answer: Reply | PenstockError, expected: tuple[Pulse | None, str]
) -> None:
    client: Any = Client({"/metrics": answer})

    assert asyncio.run(Probes(client).pulse(REPLICA, SPECS["vllm"], 1.0)) == expected
