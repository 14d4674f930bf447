"""`Idempotency-Key` over sockets: one generation, whoever asks again and whenever."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Reply, Sim, gateway, ready_gateway, remote, sim_engine, wait_until

TENANTS = '[[tenants]]\nname = "other"\n'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m", "--base-step-s", "0.02") as sim:
        yield sim


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, engine: Sim) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("front")
    with ready_gateway(folder, remote("m", engine) + TENANTS) as server:
        yield server


def chat(text: str, *, stream: bool = False, tokens: int = 20) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "messages": messages, "stream": stream, "max_tokens": tokens, "ignore_eos": True}


def post(front: Gateway, body: Mapping[str, Any], key: str, **headers: str) -> Reply:
    return front.request("POST", "/v1/chat/completions", body, {"Idempotency-Key": key, **headers})


def started(engine: Sim) -> int:
    count: int = engine.seen()["started"]
    return count


def test_the_same_request_again_gets_the_stored_answer_and_is_not_charged(
    front: Gateway, engine: Sim
) -> None:
    before = started(engine)

    first, again = (post(front, chat("plain"), "k1") for _ in range(2))

    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert started(engine) == before + 1
    record = front.record(again.headers["x-request-id"])
    assert (record["outcome"], record["completion_tokens"]) == ("complete", None)


def test_many_at_once_run_once(front: Gateway, engine: Sim) -> None:
    before = started(engine)
    replies: list[Reply] = []
    body = chat("together", stream=True, tokens=40)
    threads = [threading.Thread(target=lambda: replies.append(post(front, body, "k2"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert replies[0].body.endswith(b"data: [DONE]\n\n")
    assert started(engine) == before + 1


def test_a_client_that_was_cut_off_goes_on_behind_what_it_has(front: Gateway, engine: Sim) -> None:
    before = started(engine)
    body = chat("resumed", stream=True, tokens=60)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k3\r\n"
    text = json.dumps(body)
    with front.connect() as sock:
        sock.sendall(
            f"{head}Authorization: {front.headers['Authorization']}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        seen = b""
        while b"id: 5\n" not in seen:
            seen += sock.recv(4096)

    rest = post(front, body, "k3", **{"Last-Event-ID": "5"})
    whole = post(front, body, "k3")

    assert whole.body.endswith(b"data: [DONE]\n\n")
    assert whole.body.endswith(rest.body)
    assert rest.body.startswith(b"id: 6\n")
    assert whole.body.count(b'"content"') >= 60
    assert started(engine) == before + 1


def test_another_body_under_the_same_key_is_refused(front: Gateway) -> None:
    post(front, chat("one"), "k4")

    reply = post(front, chat("two"), "k4")

    assert (reply.status, reply.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_other_tenants_do_not_see_a_key(front: Gateway, engine: Sim) -> None:
    secret = json.loads(front.penstock("keys", "create", "--tenant", "other", "--json").stdout)["secret"]
    other = {"Authorization": f"Bearer {secret}"}
    wait_until(lambda: front.request("GET", "/v1/models", headers=other).status == 200, "the key to be known")
    post(front, chat("mine"), "k5")
    before = started(engine)

    reply = post(front, chat("theirs"), "k5", **other)

    assert reply.status == 200
    assert "idempotent-replayed" not in reply.headers
    assert started(engine) == before + 1


def test_a_failure_is_not_kept(front: Gateway) -> None:
    failed = post(front, chat("fails"), "k6", **{"X-Sim-Fault": "status=500"})
    again = post(front, chat("fails"), "k6")

    assert (failed.status, again.status) == (500, 200)


@pytest.mark.parametrize("key", ["x" * 10_000, "x" * 256, "é"])
def test_an_unfit_key_is_refused(front: Gateway, key: str) -> None:
    reply = post(front, chat("hi"), key.encode().decode("latin-1"))

    assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_idempotency_key")


def test_an_answer_survives_a_restart_of_the_gateway_and_needs_no_engine_then(
    folder: Path, engine: Sim
) -> None:
    with ready_gateway(folder, remote("m", engine)) as front:
        first = post(front, chat("kept"), "k7")
        front.stop()
    with gateway(
        folder, '[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:9"\n'
    ) as front:
        again = post(front, chat("kept"), "k7")

    assert again.body == first.body
