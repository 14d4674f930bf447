"""Errors become responses here, and nowhere else."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from penstock.core.errors import PenstockError
from penstock.engines.exchange import Headers
from penstock.gateway.request_id import HEADER, new_request_id
from penstock.wire.sse import event

JSON_HEADER = (b"content-type", b"application/json")


def error_body(error: PenstockError) -> bytes:
    """The error in OpenAI's shape, with the hint beside its members where there is one."""
    members = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    if error.hint:
        members["hint"] = error.hint
    return msgspec.json.encode({"error": members})


def error_headers(error: PenstockError) -> Headers:
    """The headers that every error carries, and `retry-after` where waiting helps."""
    headers = [JSON_HEADER, (b"x-penstock-fault", error.fault.value.encode()), *error.headers]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_event(error: PenstockError) -> bytes:
    """The last event of a stream that could not be finished."""
    return event(error_body(error))


def raw_error_response(error: PenstockError) -> bytes:
    """A whole response for a connection that never came to a request, and is closed behind it."""
    body = error_body(error)
    headers = [
        *error_headers(error),
        (HEADER, new_request_id().encode()),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"%b%b\r\n%b" % (status_line(error.status), lines, body)


def status_line(status: int) -> bytes:
    """The first line of a response, with its line end."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


_STATUS_LINES = {int(s): f"HTTP/1.1 {int(s)} {s.phrase}\r\n".encode() for s in HTTPStatus}
