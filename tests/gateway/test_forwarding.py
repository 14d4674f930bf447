"""Headers that go on, and those that stay."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engines.exchange import Headers
from penstock.gateway.forwarding import content_type, headers_to_client, headers_to_engine
from penstock.gateway.request import Request

HOP_BY_HOP = [
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
]


def sent_on(headers: Headers, request_id: str, api_key: str) -> Headers:
    """What an engine gets of a client's headers."""
    connection: Any = None
    request = Request(connection, "/v1/completions", headers, http_1_1=True, keep_alive=True)
    return headers_to_engine(request.onward, request_id, api_key)


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_what_belongs_to_one_connection_stays_on_it(name: bytes) -> None:
    assert sent_on([(name, b"x")], "req_1", "") == [(b"x-request-id", b"req_1")]
    assert headers_to_client([(name, b"x")], "req_1") == [(b"x-request-id", b"req_1")]


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"authorization", b"Bearer sk-mine"), (b"x-api-key", b"sk-mine"), (b"cookie", b"session=sk-mine")],
)
@pytest.mark.parametrize("engine_key", ["", "engine-key"])
def test_a_clients_key_never_reaches_an_engine(name: bytes, value: bytes, engine_key: str) -> None:
    sent = sent_on([(name, value), (name, value)], "req_1", engine_key)

    assert b"sk-mine" not in b"".join(value for _, value in sent)


def test_an_engine_gets_the_key_that_it_asks_for_and_only_that() -> None:
    sent = sent_on([(b"authorization", b"Bearer sk-mine")], "req_1", "engine-key")

    assert [value for name, value in sent if name == b"authorization"] == [b"Bearer engine-key"]
    assert b"authorization" not in dict(sent_on([], "req_1", ""))


@pytest.mark.parametrize("value", [b"x-hop", b"close, X-Hop", b"keep-alive,x-hop , x-other"])
def test_what_a_connection_header_names_stays_on_it(value: bytes) -> None:
    given = [(b"x-hop", b"1"), (b"connection", b"close"), (b"connection", value), (b"x-end-to-end", b"2")]

    assert sent_on(given, "req_1", "") == [(b"x-end-to-end", b"2"), (b"x-request-id", b"req_1")]
    assert headers_to_client(given, "req_1") == [(b"x-end-to-end", b"2"), (b"x-request-id", b"req_1")]


@pytest.mark.parametrize("name", [b"host", b"content-length", b"expect", b"accept-encoding", b"x-request-id"])
def test_what_the_gateway_says_itself_is_not_said_twice(name: bytes) -> None:
    assert sent_on([(name, b"theirs")], "req_1", "") == [(b"x-request-id", b"req_1")]


def test_other_headers_go_on_in_their_order_even_twice() -> None:
    given = [
        (b"content-type", b"application/json"),
        (b"traceparent", b"00-a"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
    ]

    assert sent_on(given, "req_1", "") == [*given, (b"x-request-id", b"req_1")]


@pytest.mark.parametrize(
    "name",
    [b"server", b"date", b"set-cookie", b"content-length", b"access-control-allow-origin", b"x-request-id"],
)
def test_what_an_engine_may_not_tell_a_client_is_left_out(name: bytes) -> None:
    assert headers_to_client([(name, b"theirs")], "req_1") == [(b"x-request-id", b"req_1")]


def test_an_engines_other_headers_reach_the_client() -> None:
    given = [(b"content-type", b"text/event-stream"), (b"retry-after", b"3"), (b"x-inference-time", b"1")]

    assert headers_to_client(given, "req_1") == [*given, (b"x-request-id", b"req_1")]


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        (b"text/event-stream", "text/event-stream"),
        (b"Text/Event-Stream; charset=utf-8", "text/event-stream"),
        (b" application/json ;x", "application/json"),
        (b"", ""),
        (b"\xff", "\xff"),
    ],
)
def test_a_media_type_is_read_without_its_parameters(value: bytes, media_type: str) -> None:
    assert content_type([(b"x", b"y"), (b"content-type", value)]) == media_type


def test_no_content_type_is_an_empty_one() -> None:
    assert content_type([]) == ""
