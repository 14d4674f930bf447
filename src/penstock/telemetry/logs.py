"""The log: JSON lines, or lines for people, on standard error. Keys and prompts never get here."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from penstock.core.record import RequestRecord
from penstock.telemetry.repeats import Repeats

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Logger:
    """Writes events with their members to standard error, a line each.

    A logging library would bring a renderer for terminals along, and with it a twentieth of a worker's memory.
    Warnings and errors that say the same again and again are written a few times a minute; the next one that is
    written says how many were not (`repeats`).

    Args:
        level: debug, info, warning or error; what is below is left out.
        fmt: `json` or `console`.
        clock: monotonic seconds.
    """

    def __init__(self, level: str, fmt: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._repeats = Repeats(clock)
        self.follow(level, fmt)

    def follow(self, level: str, fmt: str) -> None:
        """Writes from this level up, and in this format, from now on."""
        self._severity = _LEVELS[level.lower()]
        self.is_json = fmt == "json"
        self._line = _json_line if self.is_json else _console_line

    def is_enabled_for(self, severity: int) -> bool:
        """Whether lines of a severity, as `logging` numbers them, are written."""
        return severity >= self._severity

    def debug(self, event: str, **members: Any) -> None:
        """What only somebody who looks for a fault wants to see."""
        self.log(logging.DEBUG, event, **members)

    def info(self, event: str, **members: Any) -> None:
        """What happens."""
        self.log(logging.INFO, event, **members)

    def warning(self, event: str, **members: Any) -> None:
        """What may need somebody's attention."""
        self.log(logging.WARNING, event, **members)

    def error(self, event: str, **members: Any) -> None:
        """What needs it."""
        self.log(logging.ERROR, event, **members)

    def log(self, severity: int, event: str, *, exc_info: Any = None, **members: Any) -> None:
        """One line.

        Args:
            severity: as `logging` numbers them.
            exc_info: an exception, or what `sys.exc_info` returns, to be told with its traceback.
        """
        if severity < self._severity:
            return
        error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
        repeats = self._repeats.passes(_kind(event, members, error)) if severity >= logging.WARNING else 0
        if repeats is None:
            return
        level = next((name for name, least in reversed(_LEVELS.items()) if severity >= least), "debug")
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {"event": event, **members, "level": level, "time": at}
        if repeats:
            line["repeats"] = repeats
        if isinstance(error, BaseException):
            line["exception"] = "".join(traceback.format_exception(error)).rstrip()
        _write(self._line(line))


def _kind(event: str, members: Mapping[str, object], error: object) -> Hashable:
    """What makes two lines the same; of a bug, where it is in the code and not which request met it."""
    if isinstance(error, BaseException):
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        return event, type(error), where and (where.tb_frame.f_code.co_filename, where.tb_lineno)
    return event, *((name, str(value)) for name, value in members.items())


def _write(text: bytes) -> None:
    """Writes to standard error; what can't be written, on a full disk, is lost: no request may fail for it."""
    with suppress(OSError, ValueError):
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()


def open_log(level: str, fmt: str) -> Logger:
    """The logger of this process; what libraries log from WARNING up comes along.

    Args:
        level: debug, info, warning or error.
        fmt: `json` or `console`.
    """
    log = Logger(level, fmt)
    logging.basicConfig(handlers=[_Bridge(log)], level=logging.WARNING, force=True)
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
    priority: str
    queue_s: float | None
    continuations: int
    hedged: bool
    replayed: bool
    cost_usd: float
    trace_id: str
    event: str = "request"
    level: str = "info"


class RequestLog:
    """Writes one line for each request: JSON by a type that is known beforehand, a third of the cost of `Logger`.

    Args:
        log: says whether they are written, and takes those that are for people.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._encode = msgspec.json.Encoder().encode

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Writes their lines, by one system call."""
        if not self._log.is_enabled_for(logging.INFO):
            return
        if self._log.is_json:
            lines = [self._encode(request_line(record)) for record in records]
            lines.append(b"")
            _write(b"\n".join(lines))
            return
        for record in records:
            members = msgspec.structs.asdict(request_line(record))
            self._log.info(
                members.pop("event"), **{k: v for k, v in members.items() if k not in ("time", "level")}
            )


def request_line(record: RequestRecord) -> RequestLine:
    """What the log tells of a request: all of its record, nothing of what was said in it."""
    duration_s = record.duration_s
    return RequestLine(
        _iso_time(record.started_at + (duration_s or 0.0)),
        record.request_id,
        record.route,
        record.model,
        record.tenant,
        record.key_id,
        record.stream,
        record.status,
        record.told_outcome,
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
        record.priority,
        _rounded(record.queue_s),
        record.continuations,
        record.hedged,
        record.replayed,
        record.cost_usd,
        f"{record.trace.trace_id:032x}" if record.trace is not None and record.trace.sampled else "",
    )


class _Bridge(logging.Handler):
    """Hands the standard library's log records to ours."""

    def __init__(self, log: Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _json_line(line: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(line, enc_hook=repr) + b"\n"
    except (
        UnicodeEncodeError
    ):  # bytes that were no text, as in a file's name: half of a pair is no JSON either
        return json.dumps(line, default=repr, ensure_ascii=False).encode(errors="replace") + b"\n"


def _console_line(line: dict[str, Any]) -> bytes:
    """The line for people; what clients wrote is quoted, so that it can't move the cursor or begin a line."""
    told = {
        name: value for name, value in line.items() if name not in ("time", "level", "event", "exception")
    }
    members = " ".join(f"{name}={_plain(value)}" for name, value in told.items())
    exception = "".join(f"\n{_plain(one, spaces=True)}" for one in line.get("exception", "").splitlines())
    text = f"{line['time']} {line['level']:<7} {_plain(line['event'], spaces=True)} {members}".rstrip()
    return f"{text}{exception}\n".encode(errors="backslashreplace")


def _plain(value: object, *, spaces: bool = False) -> str:
    text = str(value)
    fit = text.isprintable() and (spaces or not any(char in " =\"'" for char in text))
    return text if fit else ascii(text)


@lru_cache(maxsize=2)
def _iso_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _iso_time(epoch_s: float) -> str:
    second = int(epoch_s)
    return f"{_iso_second(second)}.{int((epoch_s - second) * 1e6):06d}+00:00"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
