"""What is wrong with an engine's answer, though HTTP calls it good."""

from __future__ import annotations

import json

from penstock.core.errors import ClientError, EngineError
from penstock.engines.exchange import Headers
from penstock.gateway.forwarding import content_type
from penstock.wire.usage import Notice

# How much of an engine's own words goes into an error.
COMPLAINT_CHARS_MAX = 500

_UNREAD = Notice()


class EngineAbortedError(EngineError):
    """The engine gave up amid its answer and said so."""

    code = "engine_aborted"


class StreamCutError(EngineError):
    """The engine ended its stream without the end mark."""

    code = "engine_stream_incomplete"


class MalformedEventError(EngineError):
    """The engine sent an event that can't be read."""

    code = "engine_malformed_response"


class AnswerDivergedError(EngineError):
    """An engine that was to go on with an answer wrote another one."""

    code = "engine_answer_diverged"


def complain(notice: Notice, data: bytes) -> None:
    """Raises what an event tells of a failure: that of the engine, or that of the request."""
    complaint = notice.complaint
    if complaint is not None:
        text = complaint.message[:COMPLAINT_CHARS_MAX]
        if 400 <= complaint.status < 500:
            raise ClientError(text, code=f"engine_status_{complaint.status}", status=complaint.status)
        raise EngineAbortedError(f"the engine failed: {text}")
    if notice.choices is None and not _is_json(data):
        raise MalformedEventError("the engine's stream is malformed: an event is not JSON")


def check_answer(headers: Headers, notice: Notice, body: bytes) -> None:
    """Raises what is wrong with a whole plain answer that HTTP calls good, where it is JSON for anybody to read."""
    if not _is_open_json(headers):
        return
    if notice.aborted:
        raise EngineAbortedError("the engine aborted the request")
    if notice == _UNREAD and not _is_json(body):
        raise MalformedEventError("the engine's answer is not whole: it is no JSON")


def _is_open_json(headers: Headers) -> bool:
    for name, _ in headers:
        if name == b"content-encoding":
            return False
    return content_type(headers) == "application/json"


def _is_json(data: bytes) -> bool:
    try:  # more than msgspec takes: halves of surrogate pairs, numbers beyond a float
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
