"""Uvicorn's HTTP protocol with limits that it lacks, and a way to answer without its per-event costs.

Limits: time for a request's head, size of the head, connections at once. A refused request is answered in
OpenAI's shape, and its connection is closed so that the client can still read the answer.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from penstock.core.errors import ClientError, OverloadError, PenstockError
from penstock.gateway.responder import RESPONDER, Responder
from penstock.gateway.responses import raw_error_response

# A head of an API client is under 2 KB; proxies and tracing headers may double that several times.
HEAD_BYTES_MAX = 64 * 1024
# Requests that wait for the answer to an earlier one on the same connection.
PIPELINE_LEN_MAX = 16
# How long a client may take nothing of what waits for it.
WRITE_TIMEOUT_S = 60.0
# How long, and how much, a refused client may go on sending before its connection is cut.
LINGER_S = 2.0
LINGER_BYTES_MAX = 16 * 1024 * 1024


# An offer to speak HTTP/2, as some clients make with every first request: it is declined by not hearing it.
_UPGRADE = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r\n]*", re.IGNORECASE)


class _PipelineTooLongError(Exception):
    """More requests wait on a connection than anybody needs."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one listener.

    Args:
        header_timeout_s: for a whole request head, from its first byte, or from the opening of the connection.
        connections_max: open connections at once, in this process.
    """

    header_timeout_s: float
    connections_max: int


class GatewayProtocol(HttpToolsProtocol):
    """One client connection."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of the head that is being read
        self._framing_bytes = 0  # of the message behind it, that are no body
        self._awaits_head = True
        self._in_trailers = False
        self._lingered_bytes: int | None = None
        self._responder: Responder | None = None

    # -- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            self.refuse(
                OverloadError(
                    f"{self._limits.connections_max} connections are open already",
                    code="too_many_connections",
                    hint="try again, or raise gateway.connections_max",
                    retry_after_s=1,
                )
            )
        else:
            self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        if self._lingered_bytes is not None:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES_MAX:
                self.transport.abort()
            return
        if self._awaits_head:
            data = data if self._head_bytes else data.lstrip(b"\r\n")  # RFC 9112, 2.2: what old clients send
            data = _without_upgrade(data)
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        super().data_received(data)
        if max(self._head_bytes, self._framing_bytes) > HEAD_BYTES_MAX:
            self.refuse(
                ClientError(
                    f"the request's headers are larger than {HEAD_BYTES_MAX} bytes",
                    code="headers_too_large",
                    hint="send fewer or shorter headers",
                    status=431,
                )
            )
        elif self._awaits_head and self._answered and self._head_timer is None:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_head_timer()
        self._stop_write_timer()
        if self._responder is not None:
            self._responder.disconnected()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)
        if self._responder is not None:
            self._responder.writing_paused(paused=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()
        if not self.pipeline:
            self.flow.resume_reading()
        if self._responder is not None:
            self._responder.writing_paused(paused=False)

    # -- uvicorn --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_trailers = False
        self._head_bytes = (
            self._head_bytes or 1
        )  # begun behind another request in one read: not counted there
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_trailers:  # RFC 9110, 6.5.1: a trailer must not pass for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= PIPELINE_LEN_MAX:
            raise _PipelineTooLongError
        self._awaits_head = False
        self._in_trailers = True
        self._head_bytes = self._framing_bytes = 0
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # A chunk of one byte comes with five of framing: no honest client sends worse.
        self._framing_bytes = max(0, self._framing_bytes - 8 * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaits_head = True
        self._framing_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next request may be read, if there is none waiting and the client takes its answers."""
        more_body = self.cycle.more_body and not self.pipeline
        super().on_response_complete()
        if more_body:
            self.linger()
        elif self.pipeline or self.flow.write_paused:
            self.flow.pause_reading()
        if self._head_bytes and self._answered and self._head_timer is None:
            self._start_head_timer()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._responder = Responder(cycle, write_paused=self.flow.write_paused)
        cycle.scope[RESPONDER] = self._responder  # type: ignore[literal-required]  # our own key
        super()._start_asgi_task(cycle, app)

    @property
    def _answered(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn says it in plain text
        self.refuse(
            ClientError(
                "this is not a valid HTTP/1.1 request",
                code="invalid_http",
                hint="check the request line and headers",
            )
        )

    # -- refusing -------------------------------------------------------------------------------------

    def refuse(self, error: PenstockError) -> None:
        """Answers `error` and ends the connection."""
        self._stop_head_timer()
        if self._lingered_bytes is not None or self.transport.is_closing():
            return
        if (
            self.cycle is not None and not self.cycle.response_complete
        ):  # an answer is under way: no room for another
            self.transport.abort()
            return
        self.transport.write(raw_error_response(error))
        self.linger()

    def linger(self) -> None:
        """Ends our side and throws away what still comes, so that a reset does not overtake the answer."""
        if self._lingered_bytes is None and not self.transport.is_closing():
            self._lingered_bytes = 0
            self.flow.resume_reading()
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.abort)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.header_timeout_s, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if not self._head_bytes:
            self.transport.close()
            return
        self.refuse(
            ClientError(
                f"no whole request head within {self._limits.header_timeout_s:.3g} s",
                code="header_timeout",
                hint="send the headers at once",
                status=408,
            )
        )


def _without_upgrade(data: bytes) -> bytes:
    """A request's head without its offers to change the protocol; llhttp would stop reading at one."""
    if b"pgrade:" not in data and b"PGRADE:" not in data:
        return data
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + body
