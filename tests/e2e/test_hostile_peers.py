"""Clients and engines at their worst: memory stays bounded, nothing looks finished that is not, records are true."""

from __future__ import annotations

import json
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.processes import KEY, Gateway, Sim, gateway, ready_gateway, remote, wait_until
from tests.e2e.scripted import ROLE, answer, begin_stream, end_stream, say, scripted_engine, token
from tests.e2e.test_streams import chat, open_stream, read_until

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024


def post(body: bytes, *headers: str, path: str = CHAT) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {KEY}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def body(**members: Any) -> bytes:
    return json.dumps(chat(**members)).encode()


def memory_of(server: Gateway) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


def push(sock: socket.socket, data: bytes, seconds: float) -> int:
    """How much of `data`, again and again, the server takes in some seconds; nothing is read."""
    sock.settimeout(0.2)
    taken = 0
    deadline_s = time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < deadline_s:
            with suppress(TimeoutError):
                taken += sock.send(data)
    return taken


# -- clients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["POST /v1/x", "GET /health"])
def test_a_flood_of_pipelined_requests_costs_no_memory(front: Gateway, line: str) -> None:
    before = memory_of(front)
    with front.connect() as sock:
        push(sock, f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode() * 500, 2.0)
        grown = memory_of(front) - before

    assert grown < 30 * MIB
    assert front.ask("hello", "m", max_tokens=2).status == 200


def test_a_client_that_reads_nothing_holds_back_the_engine_on_every_request_of_its_connection(
    folder: Path,
) -> None:
    sent = 0

    def flood(sock: socket.socket, _: int) -> None:
        nonlocal sent
        if len(engine.requests) < 12:  # these fill every buffer on the way to the client
            answer(sock, b'"%b"' % (b"x" * 900_000))
            sent += 900_000
            return
        begin_stream(sock)
        while sent < 400 * MIB:
            say(sock, token("x" * 60_000))
            sent += 60_000

    with (
        scripted_engine(flood) as engine,
        ready_gateway(folder, remote("m", engine)) as front,
        front.connect() as sock,
    ):
        sock.sendall(post(body()) * 11 + post(body(stream=True)))
        wait_until(lambda: sent > 2 * MIB, "the buffers to fill")
        settled = -1
        while settled != sent:
            settled = sent
            time.sleep(1.0)

    assert sent < 30 * MIB


def test_a_trailer_is_no_header_and_there_is_an_end_to_them(front: Gateway) -> None:
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    content = body()
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(content), content)
    with front.connect() as sock:
        sock.sendall(request + chunk + f"X-Api-Key: {KEY}\r\n\r\n".encode())
        unauthenticated = read_until(sock, b"}}")
    before = memory_of(front)
    with front.connect() as sock:
        sock.sendall(request + chunk)
        push(sock, b"x-trailer: " + b"y" * 50_000 + b"\r\n", 1.0)
        grown = memory_of(front) - before

    assert b" 401 " in unauthenticated.splitlines()[0]
    assert grown < 30 * MIB


def test_an_offer_to_speak_http2_is_declined_and_the_request_served(front: Gateway) -> None:
    with front.connect() as sock:
        offer = (
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        )
        sock.sendall(post(body(max_tokens=2), *offer))
        said = read_until(sock, b'"usage"')

    assert b" 200 OK" in said


def test_a_line_end_behind_the_body_harms_nothing(folder: Path, sim: Sim) -> None:
    config = '[gateway]\nheader_timeout = "300ms"\n' + remote("m", sim)
    with ready_gateway(folder, config) as front, front.connect() as sock:
        sock.sendall(post(body(stream=True, max_tokens=80, ignore_eos=True)))
        read_until(sock, b"data: ")
        sock.sendall(b"\r\n")
        said = read_until(sock, b"[DONE]\n\n\r\n0\r\n\r\n")

    assert said.count(b"data: ") > 40


def test_an_answer_to_half_a_request_ends_its_connection(front: Gateway) -> None:
    with front.connect() as sock:
        sock.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        read_until(sock, b"unknown_route")
        sock.sendall(b"x")
        sock.settimeout(20)
        rest = b"x"
        while rest:
            rest = sock.recv(65536)

    assert rest == b""


def test_what_a_client_got_before_it_left_is_recorded(front: Gateway) -> None:
    with open_stream(front, {**chat(max_tokens=2000, ignore_eos=True), "user": "leaver"}) as sock:
        said = b""
        while said.count(b"data: ") < 6:
            said += sock.recv(65536)
        request_id = said.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()

    record = front.record(request_id)
    assert record["outcome"] == "cancelled"
    assert record["completion_tokens"] >= 5


def test_a_client_that_asks_first_is_told_to_send_its_body(front: Gateway) -> None:
    request = post(body(max_tokens=2), "Expect: 100-continue")
    cut = request.index(b"\r\n\r\n") + 4
    with front.connect() as sock:
        sock.sendall(request[:cut])
        asked = read_until(sock, b"\r\n\r\n")
        sock.sendall(request[cut:])
        said = read_until(sock, b'"usage"')

    assert asked.startswith(b"HTTP/1.1 100 Continue\r\n")
    assert b" 200 OK" in said


def test_a_client_that_asks_first_and_may_not_is_told_so_at_once(front: Gateway) -> None:
    request = post(body(), "Expect: 100-continue").replace(KEY.encode(), b"sk-wrong")
    with front.connect() as sock:
        sock.sendall(request[: request.index(b"\r\n\r\n") + 4])
        said = read_until(sock, b"}}")

    assert said.startswith(b"HTTP/1.1 401 ")


def test_answers_leave_in_the_order_of_their_requests_whoever_makes_them(front: Gateway) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with front.connect() as sock:
        sock.sendall(
            health + post(body(stream=True, max_tokens=3)) + health + post(body(max_tokens=2)) + health
        )
        said = b""
        while said.count(b'{"status":"ok"}') < 3:
            said += sock.recv(65536)

    marks = [b'{"status":"ok"}', b"data: [DONE]", b'{"status":"ok"}', b'"usage"', b'{"status":"ok"}']
    position = 0
    for mark in marks:
        position = said.index(mark, position) + len(mark)


def test_a_connection_serves_another_request_behind_a_stream(front: Gateway) -> None:
    with front.connect() as sock:
        for _ in range(3):
            sock.sendall(post(body(stream=True, max_tokens=3)))
            streamed = read_until(sock, b"0\r\n\r\n")
            request = post(body(max_tokens=2))
            sock.sendall(request[:50])
            sock.sendall(request[50:])
            plain = read_until(sock, b'"usage"')

            assert b"data: [DONE]" in streamed
            assert b" 200 OK" in plain


def test_a_head_that_begins_amid_a_stream_is_served_behind_it(front: Gateway) -> None:
    request = post(body(max_tokens=2))
    with front.connect() as sock:
        sock.sendall(post(body(stream=True, max_tokens=40)) + request[:30])
        read_until(sock, b"data: ")
        sock.sendall(request[30:])
        said = read_until(sock, b'"object":"chat.completion"')

    assert said.count(b" 200 OK") >= 1
    assert b"data: [DONE]" in said


def test_an_old_client_gets_its_stream_unchunked_and_its_end_by_the_close(front: Gateway) -> None:
    content = body(stream=True, max_tokens=3)
    with front.connect() as sock:
        sock.sendall(post(content).replace(b" HTTP/1.1", b" HTTP/1.0"))
        said = b""
        while piece := sock.recv(65536):
            said += piece

    assert b"transfer-encoding" not in said
    assert b"connection: close" in said
    assert said.endswith(b"data: [DONE]\n\n")


def test_a_path_may_be_quoted_and_the_target_whole(front: Gateway) -> None:
    for target in ("/v1/chat%2Fcompletions", "http://x/v1/chat/completions?a=b"):
        with front.connect() as sock:
            sock.sendall(post(body(max_tokens=2), path=target))

            assert b" 200 OK" in read_until(sock, b'"usage"')


# -- engines -------------------------------------------------------------------------------------------


def test_a_large_plain_answer_that_is_cut_by_the_drain_does_not_look_whole(folder: Path) -> None:
    def drip(sock: socket.socket, _: int) -> None:
        begin_stream(sock, b"application/json")
        for _ in range(1000):
            say(sock, b"y" * 100_000)
            time.sleep(0.02)

    config = '[gateway]\ndrain_timeout = "200ms"\n'
    with (
        scripted_engine(drip) as engine,
        ready_gateway(folder, config + remote("m", engine)) as front,
        front.connect() as sock,
    ):
        sock.sendall(post(body()))
        read_until(sock, b"yyy")
        front.process.send_signal(signal.SIGTERM)
        said = b""
        with suppress(ConnectionError):
            while piece := sock.recv(65536):
                said = (said + piece)[-200:]

    assert not said.endswith(b"0\r\n\r\n")
    assert b"data: " not in said


@pytest.mark.parametrize(
    "complaint",
    [
        b'data: {"error":{"message":"out of blocks","code":500}}\n\n',
        b'data: {"error":"out of blocks"}\n\n',
        b'data: {"error":{"message":null}}\n\n',
        b'data: {"object":"error","message":"out of blocks","code":500}\n\n',
    ],
)
def test_a_complaint_amid_a_stream_never_looks_finished(folder: Path, complaint: bytes) -> None:
    def complain(sock: socket.socket, _: int) -> None:
        begin_stream(sock)
        say(sock, ROLE + token("a"))
        say(sock, complaint)
        end_stream(sock)

    with scripted_engine(complain) as engine, ready_gateway(folder, remote("m", engine)) as front:
        reply = front.request(
            "POST", CHAT, chat(stream=True), {"X-Request-Id": "complaint", "X-Penstock-Continue": "no"}
        )
        record = front.record("complaint")

    assert b"[DONE]" not in reply.body
    assert b'"code":"engine_aborted"' in reply.body
    assert (record["outcome"], record["completion_tokens"]) == ("interrupted", 1)


def test_an_engine_that_refuses_amid_its_first_event_is_not_asked_again(folder: Path) -> None:
    def refuse(sock: socket.socket, _: int) -> None:
        begin_stream(sock)
        say(sock, b'data: {"error":{"message":"too long","code":400}}\n\n')
        end_stream(sock)

    with scripted_engine(refuse) as engine, ready_gateway(folder, remote("m", engine)) as front:
        reply = front.request("POST", CHAT, chat(stream=True))

    assert (reply.status, reply.json()["error"]["message"]) == (400, "too long")
    assert len(engine.requests) == 1


def test_running_usage_is_not_taken_for_the_final_one(folder: Path) -> None:
    def die(sock: socket.socket, _: int) -> str:
        begin_stream(sock)
        for count in range(1, 6):
            say(sock, token("a", usage=f'{{"prompt_tokens":3,"completion_tokens":{count}}}'))
            time.sleep(0.05)  # so that each is a read of its own
        return "close"

    with scripted_engine(die) as engine, ready_gateway(folder, remote("m", engine)) as front:
        front.request(
            "POST", CHAT, chat(stream=True), {"X-Request-Id": "running", "X-Penstock-Continue": "no"}
        )
        record = front.record("running")

    assert (record["prompt_tokens"], record["completion_tokens"]) == (3, 5)


def test_a_role_chunk_does_not_end_the_wait_for_the_first_token(folder: Path) -> None:
    def prefill(sock: socket.socket, _: int) -> None:
        begin_stream(sock)
        say(sock, ROLE)
        time.sleep(1.0)
        say(sock, token("a"))
        end_stream(sock)

    limits = 'timeouts = { first_token = "20s", stall = "300ms" }'
    with (
        scripted_engine(prefill) as engine,
        ready_gateway(folder, remote("m", engine, extra=limits)) as front,
    ):
        reply = front.request("POST", CHAT, chat(stream=True))

    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_a_kept_connection_that_dies_late_is_no_stale_one(folder: Path) -> None:
    def linger(sock: socket.socket, count: int) -> str:
        if count == 1:
            answer(sock, b'{"choices":[]}')
            return ""
        time.sleep(1.5)
        return "close"

    limits = "[gateway]\nretries_max = 0\n"
    with scripted_engine(linger) as engine, ready_gateway(folder, limits + remote("m", engine)) as front:
        replies = [front.request("POST", CHAT, chat()) for _ in range(2)]

    assert [reply.status for reply in replies] == [200, 502]
    assert len(engine.requests) == 2


def test_an_engine_that_completes_no_prompts_becomes_ready_all_the_same(folder: Path) -> None:
    def embeds(sock: socket.socket, _: int) -> None:
        answer(sock, b'{"detail":"Not Found"}', b"404 Not Found")

    with scripted_engine(embeds, canary=b"") as engine, ready_gateway(folder, remote("m", engine)) as front:
        states = [replica["state"] for replica in front.admin("/admin/fleet").json()["replicas"]]

    assert states == ["ready"]


def test_an_engine_that_refuses_the_gateways_key_is_not_the_clients_fault(folder: Path) -> None:
    def refuse(sock: socket.socket, _: int) -> None:
        answer(sock, b'{"error":"Incorrect API key provided: sk-upstream"}', b"401 Unauthorized")

    with scripted_engine(refuse) as engine, ready_gateway(folder, remote("m", engine)) as front:
        reply = front.request("POST", CHAT, chat())

    assert (reply.status, reply.headers["x-penstock-fault"]) == (502, "gateway")
    assert b"sk-upstream" not in reply.body


def test_a_name_that_can_be_no_host_is_told_and_asked_for_again(folder: Path) -> None:
    config = '[[models]]\nname = "m"\nengine = "remote"\nsource = "http://a..b:8000"\n'
    with gateway(folder, config) as front:
        wait_until(
            lambda: "nothing answers" in front.request("GET", "/ready").json()["reasons"].get("m", ""),
            "the cause",
        )


def test_the_usage_of_a_large_plain_answer_is_recorded(folder: Path) -> None:
    def embed(sock: socket.socket, _: int) -> None:
        answer(sock, b'{"data":"%b","usage":{"prompt_tokens":9,"total_tokens":9}}' % (b"0" * 3 * MIB))

    with scripted_engine(embed) as engine, ready_gateway(folder, remote("m", engine)) as front:
        reply = front.request(
            "POST", "/v1/embeddings", {"model": "m", "input": "x"}, {"X-Request-Id": "large"}
        )
        record = front.record("large")

    assert len(reply.json()["data"]) == 3 * MIB
    assert (record["prompt_tokens"], record["usage_source"]) == (9, "engine")
