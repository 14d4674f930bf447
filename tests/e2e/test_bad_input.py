"""What bad input gets: a clear OpenAI-shaped error or a closed connection, while the server goes on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.processes import KEY, Gateway, Reply, Sim, ready_gateway, remote, wait_until

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, sim: Sim) -> Iterator[Gateway]:
    """A gateway with short time limits and a small body limit."""
    limits = (
        '[gateway]\nheader_timeout = "300ms"\nbody_timeout = "500ms"\nbody_max = "100KB"\nkeep_alive = "2s"\n'
    )
    with ready_gateway(tmp_path_factory.mktemp("strict"), limits + remote("m", sim)) as server:
        yield server


def error_of(reply: Reply, status: int, fault: str = "client") -> dict[str, Any]:
    """The error in `reply`, whose shape is OpenAI's and whose headers are ours."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-penstock-fault"] == fault
    assert reply.headers["x-request-id"]
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert "Traceback" not in json.dumps(error)
    return error


def still_serves(server: Gateway) -> bool:
    return server.ask("hello", "m", max_tokens=2).status == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b'{"model": "m", "messages": [', 400, "invalid_json", None),
        (b"\xff\xfe{}", 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b"[]", 400, "invalid_type", None),
        (b"[" * 50_000, 400, None, None),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', 400, "invalid_type", "model"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 400, "missing_required_parameter", "model"),
        (b'{"model": "m"}', 400, "missing_required_parameter", "messages"),
        (b'{"model": "m", "messages": []}', 400, "invalid_value", "messages"),
        (b'{"model": "m", "messages": "hello"}', 400, "invalid_type", "messages"),
        (b'{"model": "m", "messages": [{}]}', 400, "missing_required_parameter", "messages[0].role"),
        (b'{"model": "m", "messages": [{"role": "user"}], "stream": "yes"}', 400, "invalid_type", "stream"),
    ],
)
def test_a_wrong_body_is_named_with_the_member_at_fault(
    front: Gateway, body: bytes, status: int, code: str | None, param: str | None
) -> None:
    reply = front.request("POST", CHAT, body, JSON)

    error = error_of(reply, status)
    assert error["param"] == param
    assert code is None or error["code"] == code


def test_an_unknown_model_is_404_and_the_known_ones_are_listed(front: Gateway) -> None:
    reply = front.ask("hello", "no-such-model")

    error = error_of(reply, 404)
    assert error["code"] == "model_not_found"
    assert "m" in error["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("POST", "/v1/../metrics", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/nothing", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_unknown_routes_and_wrong_methods_are_told_apart(
    front: Gateway, method: str, path: str, status: int
) -> None:
    reply = front.request(method, path, b"{}", JSON)

    error_of(reply, status)


def test_a_route_that_the_engine_lacks_gets_the_engines_own_404(front: Gateway) -> None:
    reply = front.request("POST", "/v1/audio/speech", {"model": "m", "input": "x"})

    assert reply.status == 404
    assert reply.json() == {"detail": "Not Found"}


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_another_content_type_is_415(front: Gateway, media_type: str) -> None:
    reply = front.request("POST", CHAT, json.dumps(GOOD).encode(), {"Content-Type": media_type})

    assert "Content-Type: application/json" in error_of(reply, 415)["hint"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic " + KEY},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": "", "X-API-Key": "wrong"},
    ],
)
def test_a_bad_key_is_401(front: Gateway, headers: dict[str, str]) -> None:
    reply = front.request("POST", CHAT, GOOD, headers)

    assert error_of(reply, 401)["type"] == "authentication_error"
    assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_in_the_url_is_ignored_and_never_logged(front: Gateway) -> None:
    reply = front.request("POST", f"{CHAT}?api_key={KEY}", GOOD, {"Authorization": ""})

    error_of(reply, 401)
    assert KEY not in front.log.read_text()


def test_the_models_list_needs_a_key_and_health_does_not(front: Gateway) -> None:
    listed = front.request("GET", "/v1/models", headers={"Authorization": ""})
    healths = [
        front.request("GET", path, headers={"Authorization": ""})
        for path in ("/health", "/healthz", "/ready")
    ]

    error_of(listed, 401)
    assert [reply.status for reply in healths] == [200, 200, 200]


def test_a_body_over_the_limit_is_413_before_it_is_sent(strict: Gateway) -> None:
    with strict.connect() as sock:
        sock.sendall(head(strict, 10**9))
        reply = read_reply(sock)

    assert b" 413 " in reply.splitlines()[0]
    assert b"body_too_large" in reply
    assert still_serves(strict)


def test_a_client_that_sends_its_large_body_anyway_can_read_the_413(strict: Gateway) -> None:
    reply = strict.request("POST", CHAT, b"x" * 5_000_000, JSON)

    error_of(reply, 413)


def test_a_chunked_body_over_the_limit_is_413(strict: Gateway) -> None:
    with strict.connect() as sock:
        sock.sendall(head(strict, None))
        for _ in range(3):
            sock.sendall(b"c350\r\n" + b" " * 50_000 + b"\r\n")
        reply = read_reply(sock)

    assert b" 413 " in reply.splitlines()[0]
    assert still_serves(strict)


def test_slow_headers_are_408(strict: Gateway) -> None:
    with strict.connect() as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        reply = read_reply(sock)

    assert b" 408 " in reply.splitlines()[0]
    assert b"header_timeout" in reply


def test_slow_headers_on_a_kept_alive_connection_are_408_too(strict: Gateway) -> None:
    with strict.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        first = b""
        while b"}" not in first:
            first += sock.recv(65536)
        sock.sendall(b"\r\nGET /hea")
        reply = read_reply(sock)

    assert b" 200 " in first.splitlines()[0]
    assert b" 408 " in reply.splitlines()[0]


def test_a_connection_that_never_says_anything_is_closed(strict: Gateway) -> None:
    with strict.connect() as sock:
        said = sock.recv(1024)

    assert said == b""


def test_a_slow_body_is_408(strict: Gateway) -> None:
    with strict.connect() as sock:
        sock.sendall(head(strict, 100) + b'{"model"')
        reply = read_reply(sock)

    assert b" 408 " in reply.splitlines()[0]
    assert b"body_timeout" in reply
    assert still_serves(strict)


@pytest.mark.parametrize("flood", [b"x-h: " + b"a" * 100_000, b"x-h: v\r\n" * 20_000, b"x" * 100_000])
def test_a_header_flood_is_431(strict: Gateway, flood: bytes) -> None:
    with strict.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + flood)
        reply = read_reply(sock)

    assert b" 431 " in reply.splitlines()[0]
    assert still_serves(strict)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_400(strict: Gateway, request_bytes: bytes) -> None:
    with strict.connect() as sock:
        sock.sendall(request_bytes)
        reply = read_reply(sock)

    assert b" 400 " in reply.splitlines()[0]
    assert b"invalid_http" in reply
    assert still_serves(strict)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "chunk", [b'5\r\n{"mod\r\nzz\r\n', b"-1\r\n", b"2\r\n{}junk\r\n", b"f" * 17 + b"\r\n"]
)
def test_a_malformed_chunk_amid_a_body_is_a_400(front: Gateway, chunk: bytes, at_once: bool) -> None:
    with front.connect() as sock:
        if at_once:
            sock.sendall(head(front, None) + chunk)
        else:
            sock.sendall(head(front, None) + b"2\r\n{ \r\n")
            time.sleep(0.05)
            sock.sendall(chunk)
        reply = read_reply(sock)

    assert b" 400 " in reply.splitlines()[0]
    assert b"invalid_http" in reply
    assert b"x-penstock-fault: client" in reply
    assert still_serves(front)


@pytest.mark.parametrize("line", ["GET /health", "POST /v1/models"])
def test_a_malformed_chunk_is_a_400_also_where_no_body_is_read(front: Gateway, line: str) -> None:
    with front.connect() as sock:
        sock.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        reply = read_reply(sock)

    assert b" 400 " in reply.splitlines()[0]
    assert reply.count(b"x-request-id") == 1
    assert b"invalid_http" in reply


@pytest.mark.parametrize("line", ["POST /v1/chat/completions", "GET /health"])
@pytest.mark.parametrize(("hosts", "version"), [(0, "1.1"), (2, "1.1"), (0, "1.0"), (1, "1.1")])
def test_a_request_names_its_host_once(strict: Gateway, line: str, hosts: int, version: str) -> None:
    host_lines = "Host: x\r\n" * hosts
    request = f"{line} HTTP/{version}\r\n{host_lines}Content-Length: 0\r\nConnection: close\r\n\r\n"
    with strict.connect() as sock:
        sock.sendall(request.encode())
        reply = read_reply(sock)

    refused = b"invalid_host" in reply
    assert refused == (version == "1.1" and hosts != 1)
    assert (b" 400 " in reply.splitlines()[0]) == refused


def test_500_idle_connections_do_no_harm_and_leave_nothing(strict: Gateway) -> None:
    process = psutil.Process(strict.process.pid)
    before = process.num_fds()
    idle = [strict.connect() for _ in range(500)]

    assert still_serves(strict)
    for sock in idle:
        sock.close()
    wait_until(lambda: process.num_fds() <= before + 2, "the connections to be let go")


def test_a_base_url_that_is_wrong_and_a_key_that_is_none_are_seen_by_who_runs_it(
    folder: Path, sim: Sim
) -> None:
    with ready_gateway(folder, remote("m", sim)) as server:
        server.request("POST", "/chat/completions", {"model": "m"}, {"X-Request-Id": "lost-1"})
        server.request("GET", "/v1/models/m", headers={"Authorization": "Bearer sk-wrong"})
        metrics = server.admin("/metrics", key="").body.decode()
        logged = [json.loads(line) for line in server.log.read_text().splitlines()]

    assert 'penstock_api_requests_total{route="other",status="404"} 1' in metrics
    assert 'penstock_api_requests_total{route="/v1/models/{name:path}",status="401"} 1' in metrics
    told = {one["path"]: one for one in logged if one["event"] == "api_request"}
    assert set(told) == {"/chat/completions", "/v1/models/m"}
    assert (told["/chat/completions"]["request_id"], told["/chat/completions"]["status"]) == ("lost-1", 404)


def test_connections_beyond_the_limit_get_503_and_the_rest_go_on(folder: Path, sim: Sim) -> None:
    limits = '[gateway]\nconnections_max = 40\nheader_timeout = "60s"\n'
    with ready_gateway(folder, limits + remote("m", sim)) as server:
        held = [server.connect() for _ in range(40)]
        with server.connect() as sock:
            reply = read_reply(sock)
        for sock in held:
            sock.close()
        served = wait_until(lambda: still_serves(server), "room for a connection")
        metrics = server.admin("/metrics", key="").body.decode()

    assert b" 503 " in reply.splitlines()[0]
    assert b"too_many_connections" in reply
    assert 'penstock_connections_refused_total{code="too_many_connections"} 1' in metrics
    assert served


def test_a_request_id_that_could_break_a_header_or_log_is_replaced(front: Gateway) -> None:
    kept = front.request("GET", "/health", headers={"X-Request-Id": "trace-1.a:b_c"})
    replaced = front.request("GET", "/health", headers={"X-Request-Id": 'a"b {}'})

    assert kept.headers["x-request-id"] == "trace-1.a:b_c"
    assert replaced.headers["x-request-id"].startswith("req_")


def test_a_pipelined_head_may_be_cut_anywhere(front: Gateway) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"

    answers = [in_two_reads(front, request * 2, len(request) + cut) for cut in range(1, len(request))]

    assert {answer.count(b" 200 OK") for answer in answers} == {2}


def in_two_reads(server: Gateway, data: bytes, cut: int) -> bytes:
    with server.connect() as sock:
        sock.sendall(data[:cut])
        said = b""
        while b'{"status":"ok"}' not in said:  # the first answer shows that the first part was read
            said += sock.recv(65536)
        sock.sendall(data[cut:])
        while said.count(b'{"status":"ok"}') < 2 and (piece := sock.recv(65536)):
            said += piece
        return said


def test_a_pipelined_second_request_is_answered_after_the_first(front: Gateway) -> None:
    with front.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        sock.settimeout(5)
        said = b""
        deadline_s = time.monotonic() + 5
        while said.count(b'{"status":"ok"}') < 2 and time.monotonic() < deadline_s:
            said += sock.recv(65536)

    assert said.count(b" 200 OK") == 2


def head(server: Gateway, length: int | None) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\n{framing}\r\n\r\n"
    ).encode()


def read_reply(sock: socket.socket) -> bytes:
    """All that comes until the server closes."""
    sock.settimeout(20)
    said = b""
    while piece := sock.recv(65536):
        said += piece
    return said
