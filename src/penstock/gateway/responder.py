"""The response side of one request, written straight to the connection's transport.

Uvicorn parses requests, keeps connections alive and counts them; what it would do for each piece of a response
is left out here, and its own account of the request (the cycle) is kept right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.engines.exchange import Headers
from penstock.gateway.responses import status_line

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from penstock.core.errors import PenstockError

# The key of the responder in the ASGI scope.
RESPONDER = "penstock.responder"


class Responder:
    """Writes one response: whole by `respond`, or by `start`, `write` and `end`.

    Args:
        cycle: uvicorn's account of the request.
        write_paused: the client has yet to take what was written before.
    """

    __slots__ = (
        "_chunked",
        "_cycle",
        "_transport",
        "bytes_written",
        "ended",
        "gone",
        "on_disconnect",
        "on_failure",
        "on_write_pause",
        "started",
        "write_paused",
    )

    def __init__(self, cycle: RequestResponseCycle, *, write_paused: bool) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._chunked = True
        self.bytes_written = 0
        self.started = False
        self.ended = False
        self.gone = False
        self.write_paused = write_paused
        self.on_disconnect: Callable[[], object] | None = None
        self.on_write_pause: Callable[[bool], None] | None = None
        self.on_failure: Callable[[PenstockError], None] | None = None

    def body_if_complete(self) -> bytes | None:
        """The request's body, where all of it came with the head."""
        return None if self._cycle.more_body else bytes(self._cycle.body)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response."""
        if not self.gone:
            head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
            self._transport.write(head + body)
            self.bytes_written += len(body)
            self._complete()

    def start(self, status: int, headers: Headers) -> None:
        """Sends the head of a response of unknown length."""
        if self.gone:
            return
        self._chunked = self._cycle.scope["http_version"] == "1.1"
        if not self._chunked:
            self._cycle.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._transport.write(self._head(status, headers, framing))

    def write(self, data: bytes) -> None:
        """Sends one piece of the body, at least one byte."""
        self.bytes_written += len(data)
        if not self.gone:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, *, close: bool = False) -> None:
        """Ends the response; `close` closes the connection behind it."""
        if self.gone:
            return
        if close:
            self._cycle.keep_alive = False
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._complete()

    def break_off(self) -> None:
        """Closes the connection without ending the response: the client must see that it is not whole."""
        if not self.gone:
            self.ended = self._cycle.disconnected = True
            self._transport.close()

    def fail(self, error: PenstockError) -> None:
        """Lets the client see that a response that has begun is not whole, as befits what was begun."""
        if self.on_failure is not None:
            self.on_failure(error)
        else:
            self.break_off()

    # -- the protocol's side --------------------------------------------------------------------------

    def disconnected(self) -> None:
        """The client has gone."""
        if not self.gone:
            self.gone = self._cycle.disconnected = True
            if self.on_disconnect is not None and not self.ended:
                self.on_disconnect()

    def writing_paused(self, *, paused: bool) -> None:
        """The client reads more slowly than we write, or can take more again."""
        self.write_paused = paused
        if self.on_write_pause is not None:
            self.on_write_pause(paused)

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        self.started = self._cycle.response_started = True
        if self._cycle.more_body:  # what is left of the request would be read as the next one
            self._cycle.keep_alive = False
        lines = [status_line(status)]
        lines += [b"%b: %b\r\n" % header for header in self._cycle.default_headers]
        lines += [b"%b: %b\r\n" % header for header in headers]
        lines.append(framing)
        if not self._cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _complete(self) -> None:
        cycle = self._cycle
        self.ended = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive and not cycle.more_body:  # else the protocol waits for the rest to come
            self._transport.close()
        cycle.on_response()
