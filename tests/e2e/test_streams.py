"""Streams through a real gateway before simulated engines that misbehave on request."""

from __future__ import annotations

import base64
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import (
    KEY,
    Gateway,
    Sim,
    ready_gateway,
    remote,
    sim_engine,
    wait_until,
)
from tests.e2e.scripted import scripted_engine

Pair = tuple[Gateway, Sim, Sim]


def chat(text: str = "hello", **members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **members}


def stream(server: Gateway, body: dict[str, Any], **headers: str) -> list[str]:
    """The data of each event; comments left out."""
    reply = server.request("POST", "/v1/chat/completions", {**body, "stream": True}, headers)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    return [
        line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line.startswith("data: ")
    ]


def last_seen(engine: Sim) -> dict[str, Any]:
    entry: dict[str, Any] = engine.seen()["requests"][-1]
    return entry


def open_stream(server: Gateway, body: dict[str, Any]) -> socket.socket:
    data = json.dumps({**body, "stream": True}).encode()
    sock = server.connect()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"Authorization: {server.headers['Authorization']}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return sock


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    said = b""
    while mark not in said:
        piece = sock.recv(65536)
        assert piece, said
        said += piece
    return said


def test_a_whole_stream_ends_with_done_and_hides_the_usage_that_the_gateway_asked_for(front: Gateway) -> None:
    events = stream(front, chat(), **{"X-Request-Id": "whole-1"})

    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["choices"] for event in events[:-1])
    record = front.record("whole-1")
    assert record["usage_source"] == "engine"
    assert record["completion_tokens"] == 8
    assert record["outcome"] == "complete"


def test_the_body_reaches_the_engine_byte_for_byte(front: Gateway, sim: Sim) -> None:
    body = (
        b'{ "model":"m" ,"messages":[{"role":"user","content":"\\u00e9 \xc3\xa9 {\\"model\\": 1}"}],\n'
        b' "max_tokens": 3,"unknown":[1,{"a":null}],"priority":-1,"top_k":5e0}'
    )

    reply = front.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})

    assert reply.status == 200
    assert base64.b64decode(last_seen(sim)["body_base64"]) == body


def test_only_usage_is_added_to_a_stream_and_only_the_alias_is_replaced(pair: Pair) -> None:
    front, one, two = pair
    body = b'{"stream":true, "messages": [{"role":"user","content":"x"}] , "model" : "alias","max_tokens":2}'

    reply = front.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})

    assert reply.status == 200
    seen = max(
        (last_seen(engine) for engine in (one, two) if engine.seen()["requests"]),
        key=lambda e: e["started_at"],
    )
    expected = (
        b'{"stream_options":{"include_usage":true},"stream":true, "messages": [{"role":"user","content":"x"}] , '
        b'"model" : "m","max_tokens":2}'
    )
    assert base64.b64decode(seen["body_base64"]) == expected


def test_the_clients_key_stays_with_the_gateway_and_its_request_id_goes_on(front: Gateway, sim: Sim) -> None:
    reply = front.request(
        "POST", "/v1/chat/completions", chat(), {"X-Request-Id": "abc-1", "X-Other": "kept"}
    )

    headers = {name.lower(): value for name, value in last_seen(sim)["headers"]}
    assert KEY not in json.dumps(headers)
    assert headers["x-request-id"] == reply.headers["x-request-id"] == "abc-1"
    assert headers["x-other"] == "kept"


def test_an_engine_that_resets_before_the_first_byte_is_not_noticed(pair: Pair) -> None:
    front, one, two = pair
    for engine in (one, two):
        engine.script("reset_before")

    failed = sum(engine.seen()["failed"] for engine in (one, two))
    replies = [front.ask("hello", "m", max_tokens=2) for _ in range(2)]

    assert [reply.status for reply in replies] == [200, 200]
    assert sum(engine.seen()["failed"] for engine in (one, two)) == failed + 2


@pytest.mark.parametrize("fault", ["status=500", "status=503"])
def test_a_5xx_is_tried_again_on_the_other_replica(pair: Pair, fault: str) -> None:
    front, one, _ = pair
    one.script(fault)

    replies = [front.ask("hello", "m", max_tokens=2) for _ in range(2)]

    assert [reply.status for reply in replies] == [200, 200]


@pytest.mark.parametrize(("fault", "status"), [("status=400", 400), ("status=404", 404), ("status=418", 418)])
def test_a_4xx_is_passed_on_and_never_tried_again(front: Gateway, sim: Sim, fault: str, status: int) -> None:
    before = sim.seen()["started"]

    reply = front.request("POST", "/v1/chat/completions", chat(), {"X-Sim-Fault": fault})

    assert reply.status == status
    assert reply.headers["x-penstock-fault"] == "client"
    assert sim.seen()["started"] == before + 1


def test_a_429_of_the_engine_keeps_its_retry_after(front: Gateway, sim: Sim) -> None:
    before = sim.seen()["started"]

    reply = front.request("POST", "/v1/chat/completions", chat(), {"X-Sim-Fault": "status=429;retry_after=3"})

    assert (reply.status, reply.headers["retry-after"]) == (429, "3")
    assert sim.seen()["started"] == before + 1


def test_a_5xx_that_stays_is_passed_on_as_the_engines_fault(front: Gateway) -> None:
    reply = front.request("POST", "/v1/chat/completions", chat(), {"X-Sim-Fault": "status=500"})

    assert reply.status == 500
    assert reply.headers["x-penstock-fault"] == "engine"


@pytest.mark.parametrize("fault", ["reset_after_tokens=3", "abort=3"])
def test_a_stream_that_is_not_continued_ends_with_one_error_event_and_no_done(
    front: Gateway, fault: str
) -> None:
    headers = {"X-Sim-Fault": fault, "X-Request-Id": f"broken-{fault[:5]}", "X-Penstock-Continue": "no"}
    events = stream(front, chat(), **headers)

    errors = [event for event in events if "error" in json.loads(event)]
    assert errors == events[-1:]
    assert json.loads(errors[0])["error"]["code"] in ("engine_connection_lost", "engine_aborted")
    record = front.record(f"broken-{fault[:5]}")
    assert record["outcome"] == "interrupted"
    assert record["fault"] == "engine"
    assert record["completion_tokens"] >= 3


def test_a_plain_answer_that_breaks_is_made_again(pair: Pair) -> None:
    front, one, two = pair
    for engine in (one, two):
        engine.script("malformed")
    one.script("reset_after_tokens=2")

    reply = front.ask("hello", "m")

    assert reply.status == 200


def test_silence_before_the_first_token_is_a_504_that_names_the_phase(folder: Path, sim: Sim) -> None:
    limits = 'timeouts = { first_token = "600ms", stall = "600ms", total = "20s" }'
    with ready_gateway(folder, remote("m", sim, extra=limits)) as front:
        first = front.request(
            "POST", "/v1/chat/completions", chat(stream=True), {"X-Sim-Fault": "stall_before_first"}
        )
        events = stream(front, chat(), **{"X-Sim-Fault": "stall_after_tokens=2"})

        wait_until(lambda: sim.seen()["running"] == 0, "the engine's work to be cancelled")

    assert first.status == 504
    assert first.json()["error"]["code"] == "first_token_timeout"
    assert json.loads(events[-1])["error"]["code"] == "stall_timeout"
    assert "[DONE]" not in events


def test_silence_is_filled_with_comments(folder: Path, sim: Sim) -> None:
    with (
        ready_gateway(folder, '[gateway]\ncomment_every = "100ms"\n' + remote("m", sim)) as front,
        open_stream(front, {**chat(), "sim_fault": "stall_before_first"}) as sock,
    ):
        said = read_until(sock, b": keep-alive\n\n")

    assert b" 200 OK" in said


def test_an_error_after_comments_is_told_as_an_event(folder: Path) -> None:
    config = '[gateway]\ncomment_every = "50ms"\n'
    limits = 'timeouts = { first_token = "5s" }'
    with (
        sim_engine(folder, "--model", "m") as one,
        sim_engine(folder, "--model", "m") as two,
        ready_gateway(folder, config + remote("m", one, two, extra=limits)) as front,
        open_stream(front, {**chat(), "sim_fault": "stall_before_first"}) as sock,
    ):
        read_until(sock, b": keep-alive\n\n")
        busy, other = (one, two) if one.seen()["running"] else (two, one)
        other.script("status=418")
        busy.stop(signal.SIGKILL)
        rest = read_until(sock, b"0\r\n\r\n")

    assert b'"code":"engine_status_418"' in rest
    assert b"[DONE]" not in rest


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("fault", ["", "stall_before_first"])
def test_a_client_that_leaves_cancels_the_engines_work_within_100_ms(
    front: Gateway, sim: Sim, streamed: bool, fault: str
) -> None:
    body = chat("leaving", max_tokens=2000, ignore_eos=True, stream=streamed)
    if fault:
        body["sim_fault"] = fault

    # the best of some tries: a shared machine may sleep through one of them
    took_s = min(leave(front, sim, body, f"leaving-{streamed}-{fault}-{n}") for n in range(3))

    assert took_s < 0.1


def leave(front: Gateway, sim: Sim, body: dict[str, Any], request_id: str) -> float:
    """How long after its client had left the engine worked on; the record must say what became of it."""
    data = json.dumps(body).encode()
    sock = front.connect()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"X-Request-Id: {request_id}\r\n".encode()
        + f"Authorization: Bearer {KEY}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    wait_until(lambda: sim.seen()["running"] == 1, "the engine to work")
    if body["stream"] and "sim_fault" not in body:
        read_until(sock, b"data: ")
    left_at = time.time()
    sock.close()
    wait_until(lambda: sim.seen()["running"] == 0, "the engine to stop")
    entry = last_seen(sim)
    assert entry["state"] == "cancelled"
    assert front.record(request_id)["outcome"] == "cancelled"
    took_s: float = entry["ended_at"] - left_at
    return took_s


def test_a_connection_that_the_engine_had_closed_is_simply_reopened(front: Gateway, sim: Sim) -> None:
    replies = [
        front.request(
            "POST",
            "/v1/chat/completions",
            chat(max_tokens=1),
            {"X-Sim-Fault": "close_idle", "X-Request-Id": f"close-idle-{number}"},
        )
        for number in range(10)
    ]

    assert [reply.status for reply in replies] == [200] * 10
    assert all(front.record(f"close-idle-{number}")["attempts"] == 1 for number in range(10))


def test_an_engine_that_is_gone_is_503_with_retry_after_and_its_return_is_noticed(folder: Path) -> None:
    with sim_engine(folder, "--model", "m") as engine, ready_gateway(folder, remote("m", engine)) as front:
        engine.stop(signal.SIGKILL)
        gone = front.ask("hello", "m")
        unready = front.request("GET", "/ready")
        with sim_engine(folder, "--model", "m", port=engine.port):
            wait_until(lambda: front.request("GET", "/ready").status == 200, "the engine's return")
            back = front.ask("hello", "m", max_tokens=2)

    assert gone.status == 503
    assert int(gone.headers["retry-after"]) >= 1
    assert unready.status == 503
    assert "m-0 is starting" in unready.json()["reasons"]["m"]
    assert back.status == 200


def test_sigterm_lets_streams_finish_and_turns_new_calls_away(folder: Path, sim: Sim) -> None:
    with ready_gateway(folder, remote("m", sim)) as front:
        idle = front.connect()
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(idle, b"}")
        with open_stream(front, chat(max_tokens=500, ignore_eos=True)) as sock:
            read_until(sock, b"data: ")
            front.process.send_signal(signal.SIGTERM)
            unready = wait_until(
                lambda: reply if (reply := front.request("GET", "/ready")).status == 503 else None,
                "not ready",
            )
            turned_away = front.ask("hello", "m")
            rest = read_until(sock, b"[DONE]")
        code = front.process.wait(30)
        idle.close()

    assert unready.json()["reasons"] == {"gateway": "is stopping"}
    assert turned_away.status == 503
    assert turned_away.json()["error"]["code"] == "draining"
    assert turned_away.headers["retry-after"]
    assert rest.count(b"data: ") > 10
    assert code == 0


def test_a_stream_that_outlasts_the_drain_timeout_ends_with_an_error_event(folder: Path, sim: Sim) -> None:
    with ready_gateway(folder, '[gateway]\ndrain_timeout = "200ms"\n' + remote("m", sim)) as front:
        with open_stream(front, chat(max_tokens=5000, ignore_eos=True)) as sock:
            read_until(sock, b"data: ")
            front.process.send_signal(signal.SIGTERM)
            rest = read_until(sock, b"draining")
        code = front.process.wait(30)

    assert b"[DONE]" not in rest
    assert code == 0


@pytest.mark.parametrize(
    "fault", ["trickle=1ms", "early_role", "tokens_per_chunk=3", "late_usage=50ms", "no_usage"]
)
def test_a_stream_in_odd_pieces_says_the_same_as_a_smooth_one(front: Gateway, fault: str) -> None:
    smooth = stream(front, chat())
    odd = stream(front, chat(), **{"X-Sim-Fault": fault, "X-Request-Id": f"odd-{fault[:6]}"})

    assert odd[-1] == "[DONE]"
    assert text_of(odd) == text_of(smooth)
    source = front.record(f"odd-{fault[:6]}")["usage_source"]
    assert source == ("events" if fault == "no_usage" else "engine")


def text_of(events: list[str]) -> str:
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (b"200 OK", b'{"choices":[{"index":0,"message":{"role":"assistant","content":"the answer"}}]}'),
        (b"400 Bad Request", b'{"error":{"message":"too long","type":"x","code":400}}'),
    ],
)
def test_a_plain_answer_where_a_stream_was_asked_for_has_no_comments_in_it(
    folder: Path, status: bytes, body: bytes
) -> None:
    quiet_s = 0.4  # several times as long as silence may last

    def script(sock: socket.socket, _number: int) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        sock.sendall(head % (status, len(body)) + body[:10])
        time.sleep(quiet_s)
        sock.sendall(body[10:])

    config = '[gateway]\ncomment_every = "100ms"\n'
    with (
        scripted_engine(script) as engine,
        ready_gateway(
            folder, config + f'[[models]]\nname = "m"\nengine = "remote"\nsource = "{engine.url}"\n'
        ) as front,
    ):
        reply = front.request("POST", "/v1/chat/completions", chat(stream=True))

    assert (reply.status, reply.body) == (int(status[:3]), body)
    assert reply.headers["content-type"] == "application/json"
