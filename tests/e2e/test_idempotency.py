"""`Idempotency-Key` over real sockets: one run, whatever becomes of clients, connections, workers and gateways."""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import KEY, PATIENCE_S, Gateway, Reply, Sim, ready_gateway, remote


def ask(
    front: Gateway,
    key: str,
    text: str = "hello",
    last: str = "",
    path: str = "/v1/chat/completions",
    **members: Any,
) -> Reply:
    headers = {"Idempotency-Key": key, **({"Last-Event-ID": last} if last else {})}
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **members}
    if path == "/generate":
        body = {"prompt": text, **members}
    return front.request("POST", path, body, headers)


def count(sim: Sim) -> int:
    """Requests that reached the engine, but for canaries."""
    seen = sim.request("GET", "/sim/requests?last=1000").json()
    return sum(b"content" in base64.b64decode(entry["body_base64"]) for entry in seen["requests"])


@contextmanager
def streaming(front: Gateway, key: str, **members: Any) -> Iterator[http.client.HTTPResponse]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True, **members}
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=PATIENCE_S)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Idempotency-Key": key}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    try:
        yield response
    finally:
        response.close()
        connection.close()


def events(response: http.client.HTTPResponse, number: int) -> bytes:
    text = b""
    while text.count(b"\n\n") < number:
        text += response.readline()
    return text


def test_the_same_plain_request_again_gets_the_same_answer(front: Gateway, sim: Sim) -> None:
    before = count(sim)

    first, again = ask(front, "plain"), ask(front, "plain")

    assert first.status == again.status == 200
    assert first.body == again.body
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert count(sim) == before + 1
    assert front.record(again.headers["x-request-id"])["status"] == 200


def test_many_at_once_run_once(front: Gateway, sim: Sim) -> None:
    before = count(sim)

    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: ask(front, "many", stream=True, max_tokens=30), range(10)))

    assert len({reply.body for reply in replies}) == 1
    assert replies[0].body.endswith(b"data: [DONE]\n\n")
    assert count(sim) == before + 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate"])
def test_a_client_that_leaves_gets_the_rest_when_it_returns(front: Gateway, sim: Sim, path: str) -> None:
    before = count(sim)
    whole = ask(front, "leaves" + path, path=path, stream=True, max_tokens=50)
    numbers = [int(number) for number in re.findall(rb"^id: (\d+)$", whole.body, re.MULTILINE)]
    rest = ask(front, "leaves" + path, path=path, last="7", stream=True, max_tokens=50)

    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 10
    assert rest.body == whole.body[whole.body.index(b"id: 8\n") :]
    assert count(sim) == before + 1


def test_a_generation_goes_on_without_its_client(front: Gateway, sim: Sim) -> None:
    before = count(sim)
    with streaming(front, "alone", max_tokens=60, ignore_eos=True) as response:
        seen = events(response, 5)

    rest = ask(front, "alone", last="5", stream=True, max_tokens=60, ignore_eos=True)

    whole = seen + rest.body
    numbers = [int(number) for number in re.findall(rb"^id: (\d+)$", whole, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert whole.endswith(b"data: [DONE]\n\n")
    assert count(sim) == before + 1


def test_one_client_is_in_a_hurry_and_the_next_is_not(front: Gateway, sim: Sim) -> None:
    before = count(sim)
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 20,
        "ignore_eos": True,
        "sim_fault": "freeze=1s",
    }
    headers = {"Idempotency-Key": "hurry"}

    hurried = front.request("POST", "/v1/chat/completions", body, {**headers, "X-Request-Timeout": "200ms"})
    patient = front.request("POST", "/v1/chat/completions", body, headers)

    assert (hurried.status, hurried.json()["error"]["code"]) == (504, "total_timeout")
    assert patient.status == 200
    assert patient.json()["usage"]["completion_tokens"] == 20
    assert count(sim) == before + 1


def test_bad_headers_and_other_requests_are_refused(front: Gateway) -> None:
    ask(front, "mine")

    for reply, status, code in [
        (ask(front, "mine", "other"), 422, "idempotency_key_reused"),
        (ask(front, "x" * 10_000), 400, "invalid_idempotency_key"),
        (ask(front, ""), 400, "invalid_idempotency_key"),
        (ask(front, "new", last="x", stream=True), 400, "invalid_last_event_id"),
        (ask(front, "new", last="4", stream=True), 409, "nothing_to_resume"),
        (ask(front, "new", last="4"), 400, "invalid_last_event_id"),
    ]:
        assert (reply.status, reply.json()["error"]["code"]) == (status, code)
        assert reply.headers["x-penstock-fault"] == "client"


def test_a_broken_stream_is_tried_again(front: Gateway, sim: Sim) -> None:
    body: dict[str, Any] = {"stream": True, "max_tokens": 30, "ignore_eos": True, "logprobs": True}
    sim.script("reset_after_tokens=5")
    broken = ask(front, "broken", **body)
    again = ask(front, "broken", **body)

    assert b"[DONE]" not in broken.body
    assert b'"error"' in broken.body
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert "idempotent-replayed" not in again.headers


def test_a_refusal_of_the_engine_is_given_again_and_a_429_is_not(front: Gateway, sim: Sim) -> None:
    for fault, runs in (("status=400", 1), ("status=429", 2)):
        before = count(sim)
        sim.script(fault, runs)
        first, again = ask(front, fault), ask(front, fault)
        assert first.status == again.status == int(fault[-3:])
        assert count(sim) - before == runs, fault


def test_it_survives_kill_9_and_a_claim_of_the_dead_is_free(folder: Path, sim: Sim) -> None:
    with ready_gateway(folder, remote("m", sim)) as front:
        kept = ask(front, "kept")
        with streaming(front, "ran", max_tokens=500, ignore_eos=True) as response:
            events(response, 3)
            front.process.send_signal(signal.SIGKILL)
            front.process.wait()
    with ready_gateway(folder, remote("m", sim)) as front:
        again = ask(front, "kept")
        ran = ask(front, "ran", stream=True, max_tokens=20, ignore_eos=True)
        other = ask(front, "ran", stream=True, max_tokens=500, ignore_eos=True)

    assert again.body == kept.body
    assert again.headers["idempotent-replayed"] == "true"
    assert ran.body.endswith(b"data: [DONE]\n\n")
    assert other.status == 422


def test_a_generation_without_a_client_is_waited_for_at_the_drain(folder: Path, sim: Sim) -> None:
    with ready_gateway(folder, remote("m", sim)) as front:
        with streaming(front, "drain", max_tokens=100, ignore_eos=True) as response:
            events(response, 3)
        front.process.send_signal(signal.SIGTERM)
        code = front.process.wait(30)
    with ready_gateway(folder, remote("m", sim)) as front:
        before = count(sim)
        again = ask(front, "drain", stream=True, max_tokens=100, ignore_eos=True)

    assert code == 0
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert count(sim) == before


def test_a_stream_cut_at_the_drain_ends_with_an_error_event(folder: Path, sim: Sim) -> None:
    with ready_gateway(folder, '[gateway]\ndrain_timeout = "200ms"\n' + remote("m", sim)) as front:
        with (
            streaming(front, "a", max_tokens=5000, ignore_eos=True) as one,
            streaming(front, "a", max_tokens=5000, ignore_eos=True) as two,
        ):
            events(one, 2)
            events(two, 2)
            front.process.send_signal(signal.SIGTERM)
            rests = [one.read(), two.read()]
        code = front.process.wait(30)

    for rest in rests:
        assert b'"code":"draining"' in rest
        assert b"[DONE]" not in rest
    assert code == 0
    assert "bug" not in front.log.read_text()


def test_two_workers_run_it_once(folder: Path, sim: Sim) -> None:
    with ready_gateway(folder, "[gateway]\nworkers = 2\n" + remote("m", sim)) as front:
        before = count(sim)
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda _: ask(front, "two", stream=True, max_tokens=30), range(12)))
        assert len({reply.body for reply in replies}) == 1
        assert count(sim) == before + 1
