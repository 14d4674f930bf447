"""The log: JSON lines, or lines for people, on standard error. Keys and prompts never get here."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog

from penstock.core.record import RequestRecord

Logger = structlog.typing.FilteringBoundLogger


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


def log_request(log: Logger, record: RequestRecord) -> None:
    """The one line of a request."""
    log.info(
        "request",
        request_id=record.request_id,
        route=record.route,
        model=record.model,
        tenant=record.tenant,
        key_id=record.key_id,
        stream=record.stream,
        status=record.status,
        outcome=record.outcome,
        fault=record.fault,
        error_code=record.error_code,
        replica=record.replica,
        attempts=len(record.attempts),
        duration_s=_rounded(record.duration_s),
        ttft_s=_rounded(record.ttft_s),
        tpot_s=_rounded(record.tpot_s),
        overhead_s=_rounded(record.overhead_s),
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
        usage_source=record.usage.source,
        request_bytes=record.request_bytes,
        response_bytes=record.response_bytes,
        events=record.events,
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
