"""What came of one request: times as they were taken, on one clock, and nothing that is computed from them.

Times are seconds from the start of the load, on the monotonic clock of the machine, so that samples of several
processes can be put side by side. A time that was never reached is None.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Cause(StrEnum):
    """Why a request has no whole answer; `NONE` is that it has."""

    NONE = ""
    CANCELLED = "cancelled"  # by plan: the client left
    CUT_OFF = "cut_off"  # the run ended first
    CONNECT = "connect"
    TLS = "tls"
    CLIENT_ERROR = "4xx"
    RATE_LIMITED = "429"
    SERVER_ERROR = "5xx"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105 - no password
    STALL_TIMEOUT = "stall_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    RESET = "reset"  # the connection was lost amid the answer
    MALFORMED = "malformed"  # no HTTP, no SSE, no JSON, or HTML
    INCOMPLETE = "incomplete"  # it ended without [DONE] or finish_reason
    ERROR_EVENT = "error_event"  # the stream told of an error
    NOT_STREAMED = "not_streamed"  # the whole answer came at once, where a stream was asked for


class Sample(msgspec.Struct, gc=False):
    """One request.

    `chunk_s` are the arrivals of the chunks that brought content or reasoning, `first_token_s` the first of them,
    `last_token_s` the last; an empty role chunk is none. `chunk_tokens` are the tokens of each where the server
    told them, else empty.
    """

    index: int
    kind: str
    stage: int
    scheduled_s: float  # in a closed loop: when its place was free
    session: int = -1
    turn: int = 0
    process: int = 0
    sent_s: float | None = None  # its first byte was handed to an open connection
    connect_s: float | None = None  # how long the connection took to open; None where one was there
    first_byte_s: float | None = None  # of the body
    first_token_s: float | None = None
    first_answer_s: float | None = None  # first content that is not reasoning
    last_token_s: float | None = None
    done_s: float | None = None  # the end mark, or the end of a plain answer
    ended_s: float | None = None
    chunk_s: list[float] = []
    chunk_tokens: list[int] = []
    status: int = 0
    cause: Cause = Cause.NONE
    detail: str = ""  # the server's or the system's own words, cut short
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    tokens_from: str = "none"  # usage | chunks | none: who counted the completion
    planned_prompt_tokens: int | None = None
    planned_output_tokens: int | None = None
    request_id: str = ""
    replica: str = ""
    server_timing_ms: dict[str, float] = {}
    response_bytes: int = 0
    answer: str = ""  # its text, where it was to be kept
