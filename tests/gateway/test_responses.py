"""An error's bytes: OpenAI's shape, whose fault it is, and when to come back."""

from __future__ import annotations

import json

import pytest

from penstock.core.errors import (
    AuthError,
    ClientError,
    DeadlineError,
    EngineError,
    OverloadError,
    PenstockError,
    Phase,
)
from penstock.gateway.responses import (
    error_body,
    error_event,
    error_headers,
    raw_error_response,
    status_line,
)

ODD = 'a"b\\c\r\nx-evil: 1\u2028é😀'


def test_a_body_has_openais_members_and_a_hint_beside_them() -> None:
    error = ClientError("model: is required", code="missing", param="model", hint="add it")

    assert json.loads(error_body(error)) == {
        "error": {
            "message": "model: is required",
            "type": "invalid_request_error",
            "param": "model",
            "code": "missing",
            "hint": "add it",
        }
    }


def test_a_body_without_a_hint_has_no_such_member() -> None:
    assert json.loads(error_body(EngineError("gone"))) == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": "engine_error"}
    }


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ClientError("m"), b"client"),
        (OverloadError("m"), b"gateway"),
        (EngineError("m"), b"engine"),
        (DeadlineError("m", phase=Phase.STALL), b"engine"),
    ],
)
def test_the_headers_say_whose_fault_it_is(error: PenstockError, fault: bytes) -> None:
    headers = dict(error_headers(error))

    assert headers == {b"content-type": b"application/json", b"x-penstock-fault": fault}


def test_waiting_is_told_in_whole_seconds_where_it_helps() -> None:
    assert dict(error_headers(OverloadError("m", retry_after_s=2)))[b"retry-after"] == b"2"
    assert dict(error_headers(OverloadError("m", retry_after_s=0)))[b"retry-after"] == b"0"


def test_an_unknown_caller_is_told_how_to_authenticate() -> None:
    assert dict(error_headers(AuthError("m")))[b"www-authenticate"] == b"Bearer"


def test_an_error_event_is_one_event_whatever_the_message() -> None:
    said = error_event(EngineError(ODD, hint=ODD))

    assert said.startswith(b"data: {")
    assert said.endswith(b"}\n\n")
    assert said.count(b"\n") == 2
    assert b"\r" not in said
    assert json.loads(said[6:])["error"]["message"] == ODD


def test_a_raw_response_is_whole_and_closes() -> None:
    head, _, body = raw_error_response(OverloadError(ODD, code="full", retry_after_s=1)).partition(
        b"\r\n\r\n"
    )

    first, *lines = head.split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    assert first == b"HTTP/1.1 503 Service Unavailable"
    assert headers[b"content-length"] == b"%d" % len(body)
    assert headers[b"connection"] == b"close"
    assert headers[b"retry-after"] == b"1"
    assert headers[b"x-request-id"].startswith(b"req_")
    assert b"x-evil" not in headers
    assert json.loads(body)["error"]["code"] == "full"


def test_a_status_without_a_name_still_makes_a_status_line() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(529) == b"HTTP/1.1 529 \r\n"
