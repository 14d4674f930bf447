"""The log: JSON lines, or lines for people, on standard error. Keys and prompts never get here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from penstock.core.record import RequestRecord

Logger = structlog.typing.FilteringBoundLogger

# How late a request's line may come.
FLUSH_AFTER_S = 0.05


def open_log(level: str, fmt: str) -> Logger:
    """The logger of this process; what libraries log from WARNING up comes along.

    Args:
        level: debug, info, warning or error.
        fmt: `json` or `console`.
    """
    severity = getattr(logging, level.upper())
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    sink: Any
    if fmt == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_to_json)]
        sink = structlog.BytesLogger(sys.stderr.buffer)
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time"))
        sink = structlog.PrintLogger(sys.stderr)
    log: Logger = structlog.wrap_logger(
        sink, processors=processors, wrapper_class=structlog.make_filtering_bound_logger(severity)
    ).bind()
    logging.basicConfig(handlers=[_Bridge(log)], level=logging.WARNING, force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what clients do wrong is in the records
    return log


class RequestLine(msgspec.Struct):
    """The members of a request's line, in their order; times in seconds."""

    time: str
    request_id: str
    route: str
    model: str
    tenant: str
    key_id: str
    stream: bool
    status: int
    outcome: str
    fault: str
    error_code: str
    replica: str
    attempts: int
    duration_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    overhead_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    usage_source: str
    request_bytes: int
    response_bytes: int
    events: int
    event: str = "request"
    level: str = "info"


class RequestLog:
    """Writes one line for each request: JSON past structlog, which would cost more than all the rest of a record.

    Lines are collected for `FLUSH_AFTER_S`, so that a busy gateway makes one system call for many of them.

    Args:
        log: takes the lines where they are for people.
        fmt: `json` or `console`.
        later: calls a function after a number of seconds.
    """

    def __init__(self, log: Logger, fmt: str, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._log = log
        self._writes = fmt == "json" and log.is_enabled_for(logging.INFO)
        self._later = later
        self._encoder = msgspec.json.Encoder()
        self._lines: list[bytes] = []

    def __call__(self, record: RequestRecord) -> None:
        """Writes the line of `record`."""
        line = request_line(record)
        if not self._writes:
            members = msgspec.structs.asdict(line)
            self._log.info(
                members.pop("event"), **{k: v for k, v in members.items() if k not in ("time", "level")}
            )
            return
        self._lines.append(self._encoder.encode(line))
        if len(self._lines) == 1:
            self._later(FLUSH_AFTER_S, self.flush)

    def flush(self) -> None:
        """Writes what is collected."""
        if self._lines:
            self._lines.append(b"")
            sys.stderr.buffer.write(b"\n".join(self._lines))
            sys.stderr.buffer.flush()
            self._lines.clear()


def request_line(record: RequestRecord) -> RequestLine:
    """What the log tells of a request: all of its record, nothing of what was said in it."""
    duration_s = record.duration_s
    return RequestLine(
        datetime.fromtimestamp(record.started_at + (duration_s or 0.0), UTC).isoformat(),
        record.request_id,
        record.route,
        record.model,
        record.tenant,
        record.key_id,
        record.stream,
        record.status,
        record.outcome,
        record.fault,
        record.error_code,
        record.replica,
        len(record.attempts),
        _rounded(duration_s),
        _rounded(record.ttft_s),
        _rounded(record.tpot_s),
        _rounded(record.overhead_s),
        record.usage.prompt_tokens,
        record.usage.completion_tokens,
        record.usage.source,
        record.request_bytes,
        record.response_bytes,
        record.events,
    )


class _Bridge(logging.Handler):
    """Hands the standard library's log records to ours."""

    def __init__(self, log: Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _to_json(event: dict[str, Any], **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
