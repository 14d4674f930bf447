"""An engine is lost amid an answer, and the client does not see it: another goes on."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import DEMO
from tests.e2e.processes import (
    Gateway,
    Sim,
    penstock_up,
    ready_gateway,
    remote,
    sim_engine,
    wait_until,
)
from tests.e2e.scripted import begin_stream, say, scripted_engine, token

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LIMITS = 'routing = "round_robin"\ntimeouts = { first_token = "10s", stall = "400ms", total = "60s" }'
FAULTS = ["reset_after_tokens=5", "stall_after_tokens=5", "abort=5", "malformed=5"]

Pair = tuple[Gateway, Sim, Sim]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A gateway before two simulated engines, with a short limit on stalls."""
    folder = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(sim_engine(folder, "--model", "m", "--base-step-s", "0.002"))
            for _ in range(2)
        )
        front = stack.enter_context(ready_gateway(folder, remote("m", one, two, extra=LIMITS)))
        yield front, one, two


def ask(**members: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "go on"}],
        "max_tokens": 20,
        "temperature": 0,
        "stream": True,
        **members,
    }


def complete(**members: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "go on", "max_tokens": 20, "temperature": 0, "stream": True, **members}


def events_of(server: Gateway, path: str, body: dict[str, Any], **headers: str) -> list[Any]:
    """The decoded data of each event; `[DONE]` as it is."""
    reply = server.request("POST", path, body, headers)
    assert reply.status == 200, reply.body
    data = [line[6:] for line in reply.body.decode().split("\n\n") if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def text_of(events: list[Any]) -> str:
    choices = [event["choices"][0] for event in events if event != "[DONE]" and event.get("choices")]
    return "".join((c["delta"].get("content") if "delta" in c else c["text"]) or "" for c in choices)


_VICTIMS = itertools.cycle((0, 1))


def broken(
    pair: Pair, fault: str, path: str, body: dict[str, Any], name: str
) -> tuple[list[Any], dict[str, Any]]:
    """The events and the record of a request that came to an engine that fails so.

    They fail in turn, and work in between, so that neither is ejected for it.
    """
    front = pair[0]
    one = pair[1:][next(_VICTIMS)]
    for _ in range(4):
        assert front.ask("hello", "m", max_tokens=1).status == 200
    one.script(fault)
    for number in range(6):
        request_id = f"{name}-{number}"
        events = events_of(front, path, body, **{"X-Request-Id": request_id})
        if not one.request("GET", "/sim/faults").json()["requests"]:
            return events, front.record(request_id)
    raise AssertionError("no request came to the engine that fails")


def last_request(engine: Sim) -> dict[str, Any]:
    entry = engine.seen()["requests"][-1]
    body: dict[str, Any] = json.loads(base64.b64decode(entry["body_base64"]))
    return body


def open_stream(server: Gateway, body: dict[str, Any], request_id: str) -> socket.socket:
    data = json.dumps(body).encode()
    sock = server.connect()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"Authorization: {server.headers['Authorization']}\r\nX-Request-Id: {request_id}\r\n".encode()
        + f"Content-Length: {len(data)}\r\n\r\n".encode()
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


def read_events(sock: socket.socket, count: int) -> bytes:
    said = b""
    while said.count(b"\n\n") < count:
        piece = sock.recv(65536)
        assert piece, said
        said += piece
    return said


def assert_one_answer(events: list[Any], whole: list[Any], *, one_time: bool = True) -> None:
    """Nothing shows that the first of these streams broke off and the second one did not.

    Args:
        one_time: the engine stamps all chunks of a stream with one time; llama.cpp stamps each with its own.
    """
    chunks, whole_chunks = events[:-1], whole[:-1]
    assert events[-1] == whole[-1] == "[DONE]"
    assert text_of(events) == text_of(whole)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not one_time or len({chunk["created"] for chunk in chunks}) == 1
    endings = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert len(endings) == 1
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert chunks[-1].get("usage", {}).get(name) == whole_chunks[-1].get("usage", {}).get(name)
    if "delta" in chunks[0]["choices"][0]:
        roles = [chunk for chunk in chunks if chunk["choices"] and "role" in chunk["choices"][0]["delta"]]
        assert roles == chunks[:1]


@pytest.mark.parametrize(
    ("temperature", "usage", "fault"),
    [*((0, True, fault) for fault in FAULTS), *((1, False, fault) for fault in FAULTS[::2])],
)
@pytest.mark.parametrize(("path", "make"), [(CHAT, ask), (COMPLETIONS, complete)])
def test_an_answer_that_breaks_off_is_continued_unseen(
    pair: Pair, path: str, make: Any, fault: str, temperature: int, usage: bool
) -> None:
    body = make(temperature=temperature)
    if usage:
        body["stream_options"] = {"include_usage": True}
    whole = events_of(pair[0], path, body)
    name = f"{path[4:8]}-{fault[:5]}-{temperature}-{usage}"

    events, record = broken(pair, fault, path, body, name)

    assert_one_answer(events, whole)
    assert (record["outcome"], record["attempts"]) == ("complete", 2)
    assert (record["completion_tokens"], record["usage_source"]) == (20, "engine")


def test_a_generate_stream_is_continued_too(pair: Pair) -> None:
    body = {"prompt": "go on", "max_tokens": 20, "temperature": 0, "stream": True}
    whole = events_of(pair[0], "/generate", body)

    events, record = broken(pair, "reset_after_tokens=5", "/generate", body, "generate")

    assert events[-1] == "[DONE]"
    said = ["".join(event["text"] for event in stream[:-1]) for stream in (events, whole)]
    assert said[0] == said[1] != ""
    assert (record["attempts"], record["completion_tokens"]) == (2, 20)


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_in_large_pieces_is_no_longer_than_it_may_be(pair: Pair, temperature: int) -> None:
    body = ask(temperature=temperature)

    events, record = broken(
        pair, "tokens_per_chunk=3;reset_after_tokens=9", CHAT, body, f"pieces-{temperature}"
    )

    assert record["attempts"] == 2
    assert len(text_of(events).split()) == 20
    assert text_of(events) == text_of(events_of(pair[0], CHAT, body))


@pytest.mark.parametrize(("path", "make"), [(CHAT, ask), (COMPLETIONS, complete)])
@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        (("abcdefghijklmnopqrst", " abcdefghij"), 6),  # of five letters each, several in an event
        ((" if abcdefghij is", " so abcdefghij it"), 8),
        ((" if", " abcdefghij", " so"), 3),  # hardly more than its events: taken for one each
    ],
)
def test_tokens_that_came_in_one_event_are_counted_by_the_engines_tokenizer(
    folder: Path, path: str, make: Any, texts: tuple[str, ...], tokens: int
) -> None:
    def cut(sock: socket.socket, _: int) -> str:
        begin_stream(sock)
        for text in texts:
            say(
                sock,
                token(text)
                if path == CHAT
                else token(text).replace(b'"delta":{"content":', b'"text":').replace(b'"},', b'",'),
            )
        return "close"

    body = make(temperature=1, stream_options={"include_usage": True})
    with (
        scripted_engine(cut) as broken_engine,
        sim_engine(folder, "--model", "m", key="secret") as sim,
        ready_gateway(
            folder, remote("m", broken_engine, sim, extra=LIMITS + '\napi_key = "secret"')
        ) as front,
    ):
        while not broken_engine.requests:
            events = events_of(
                front, path, body, **{"X-Request-Id": f"counted-{len(broken_engine.requests)}"}
            )
        asked = last_request(sim)
        record = front.record("counted-0")

    assert asked["max_tokens"] == 20 - tokens
    assert text_of(events).startswith("".join(texts))
    assert events[-2]["usage"]["completion_tokens"] == record["completion_tokens"] == 20


def test_the_replica_that_goes_on_is_asked_for_no_more_than_what_is_left(pair: Pair) -> None:
    front, one, two = pair
    body = ask(temperature=1, min_tokens=8, max_completion_tokens=19)
    whole = text_of(events_of(front, CHAT, body))

    broken(pair, "reset_after_tokens=5", CHAT, body, "left")

    asked = next(b for b in map(last_request, (one, two)) if b.get("continue_final_message"))
    assert (asked["max_tokens"], asked["max_completion_tokens"], asked["min_tokens"]) == (15, 14, 3)
    assert asked["messages"][0] == body["messages"][0]
    assert asked["messages"][1] == {"role": "assistant", "content": " ".join(whole.split(" ")[:5])}


@pytest.mark.parametrize(
    ("members", "headers"),
    [
        ({"logprobs": True, "top_logprobs": 1}, {}),
        ({"tool_choice": "required", "tools": []}, {}),
        ({"response_format": {"type": "json_object"}}, {}),
        ({"guided_regex": "a*"}, {}),
        ({}, {"X-Penstock-Continue": "no"}),
    ],
)
def test_what_can_not_be_continued_ends_with_an_error_event(
    pair: Pair, members: dict[str, Any], headers: dict[str, str]
) -> None:
    front, one, two = pair
    for engine in (one, two):
        engine.script("reset_after_tokens=5")

    events = events_of(front, CHAT, ask(**members), **headers)
    for engine in (one, two):
        engine.script("no_usage", 0)

    assert events[-1]["error"]["code"] == "engine_connection_lost"
    assert "[DONE]" not in events
    assert len(events) == 7  # a role, five tokens, an error


def test_an_answer_is_continued_twice_and_then_ends_with_an_error_event(pair: Pair) -> None:
    front, one, two = pair
    for engine in (one, two):
        engine.script("reset_after_tokens=3", 9)

    events = events_of(front, CHAT, ask(temperature=1), **{"X-Request-Id": "thrice"})
    for engine in (one, two):
        engine.script("no_usage", 0)

    assert [event for event in events if "error" in event] == events[-1:]
    whole = text_of(events_of(front, CHAT, ask(temperature=1)))
    assert text_of(events[:-1]).split() == whole.split()[:9]
    record = front.record("thrice")
    assert (record["outcome"], record["attempts"], record["completion_tokens"]) == ("interrupted", 3, 9)


def test_a_client_that_leaves_an_answer_that_is_being_continued_stops_the_new_engine(pair: Pair) -> None:
    front, one, two = pair
    cancelled = one.seen()["cancelled"] + two.seen()["cancelled"]
    for engine in (one, two):
        engine.script("reset_after_tokens=5")

    with open_stream(front, ask(max_tokens=4000, ignore_eos=True), "leaves") as sock:
        read_events(sock, 20)

    record = front.record("leaves")
    for engine in (one, two):
        engine.script("no_usage", 0)
    assert record["outcome"] == "cancelled"
    assert record["attempts"] >= 2
    wait_until(lambda: one.seen()["running"] == two.seen()["running"] == 0, "the engines to stop")
    assert one.seen()["cancelled"] + two.seen()["cancelled"] == cancelled + 1


def test_the_pause_is_filled_with_comments_until_the_only_replica_is_back(folder: Path) -> None:
    config = '[gateway]\ncomment_every = "100ms"\n'
    with (
        sim_engine(folder, "--model", "m") as engine,
        ready_gateway(folder, config + remote("m", engine, extra=LIMITS)) as front,
    ):
        whole = text_of(events_of(front, CHAT, ask(max_tokens=60)))
        with open_stream(front, ask(max_tokens=60), "back") as sock:
            said = read_events(sock, 10)
            engine.stop(signal.SIGKILL)
            said += read_until(sock, b": keep-alive\n\n")
            with sim_engine(folder, "--model", "m", port=engine.port):
                said += read_until(sock, b"[DONE]")

    events = [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]
    assert text_of(events) == whole
    assert b"error" not in said


def test_an_answer_of_which_only_the_end_mark_is_missing_is_ended(folder: Path) -> None:
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'

    def cut(sock: socket.socket, _: int) -> str:
        begin_stream(sock)
        say(sock, token("all of it") + last)
        return "close"

    with (
        scripted_engine(cut) as engine,
        ready_gateway(folder, remote("m", engine)) as front,
    ):
        events = events_of(front, CHAT, ask(), **{"X-Request-Id": "ended"})
        record = front.record("ended")

    assert events[-1] == "[DONE]"
    assert (record["outcome"], record["attempts"], record["usage_source"]) == ("complete", 1, "events")


def test_an_engine_that_goes_on_with_another_answer_is_asked_once_more(folder: Path) -> None:
    bodies: list[dict[str, Any]] = []
    pieces = ["The", " gate", " is", " op", "en", " now", "."]
    answers = [pieces[:5], [" is", " shut", "."], [" now", "."]]

    def say_all(sock: socket.socket, _: int) -> str | None:
        said = answers[len(bodies)]
        bodies.append(json.loads(engine.requests[-1][1]))
        begin_stream(sock)
        for piece in said:
            say(sock, token(piece))
        if len(bodies) == 1:
            return "close"
        say(sock, b"data: [DONE]\n\n")
        sock.sendall(b"0\r\n\r\n")
        return None

    with (
        scripted_engine(say_all) as engine,
        ready_gateway(folder, remote("m", engine)) as front,
    ):
        events = events_of(front, CHAT, ask())

    assert text_of(events) == "The gate is open now."
    assert [body["messages"][-1]["content"] for body in bodies[1:]] == ["The gate is", "The gate is open"]
    assert [body["max_tokens"] for body in bodies] == [20, 17, 15]


KILLS_MAX = 5


# -- llama.cpp ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_killed_llama_cpp_does_not_end_its_answer(folder: Path, replicas: int) -> None:
    model = f'[[models]]\nname = "{DEMO}"\nengine = "llamacpp"\nsource = "demo"\nreplicas = {replicas}\n'
    body = ask(
        model=DEMO,
        messages=[{"role": "user", "content": "Count from one to one hundred."}],
        max_tokens=900,
        stream_options={"include_usage": True},
    )
    with penstock_up(folder, model) as stack:
        wait_until(lambda: ready_replicas(stack) == replicas, "all replicas to be ready")
        whole = events_of(stack, CHAT, body)
        for number in range(KILLS_MAX):
            with open_stream(stack, body, f"killed-{number}") as sock:
                said = read_events(sock, 10)
                kill_writer(stack, said)
                said += read_until(sock, b"[DONE]")
            record = stack.record(f"killed-{number}")
            if record["attempts"] > 1:
                break  # else it had written all of its answer before it was killed
            wait_until(lambda: ready_replicas(stack) == replicas, "the killed one to be back")

    events = [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]
    assert_one_answer([*events, "[DONE]"], whole, one_time=False)
    assert record["attempts"] >= 2


def ready_replicas(stack: Gateway) -> int:
    found = re.search(rb'state="ready"\} (\d)', stack.admin("/metrics").body)
    return int(found[1]) if found else 0


def kill_writer(stack: Gateway, head: bytes) -> None:
    """Kills the engine whose answer begins with this head."""
    replica = re.search(rb"x-penstock-replica: (\S+)", head)
    assert replica is not None
    entries = [json.loads(path.read_text()) for path in (stack.home / "run" / "replicas").glob("*.json")]
    os.kill(next(entry["pid"] for entry in entries if entry["name"] == replica[1].decode()), signal.SIGKILL)
