"""The response side of one request, written straight to the connection's transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.engines.exchange import Headers
from penstock.gateway.responses import status_line

if TYPE_CHECKING:
    from penstock.core.errors import PenstockError
    from penstock.gateway.protocol import GatewayProtocol
    from penstock.gateway.request import Request


class Responder:
    """Writes one response: whole by `respond`, or by `start`, `write` and `end`.

    Args:
        connection: on which `request` came.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_request",
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

    def __init__(self, connection: GatewayProtocol, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._transport = connection.transport
        self._chunked = request.http_1_1
        self.bytes_written = 0
        self.started = False
        self.ended = False
        self.gone = False
        self.write_paused = connection.write_paused
        self.on_disconnect: Callable[[], object] | None = None
        self.on_write_pause: Callable[[bool], None] | None = None
        self.on_failure: Callable[[PenstockError], None] | None = None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response."""
        if not self.gone:
            self._transport.write(
                self._head(status, headers, b"content-length: %d\r\n" % len(body)) + body,
            )
            self.bytes_written += len(body)
            self._complete()

    def start(self, status: int, headers: Headers, *, is_sized: bool = False) -> None:
        """Sends the head of a response.

        Args:
            is_sized: `headers` tell the length of the body, or there is none.
        """
        if self.gone:
            return
        if is_sized:
            self._chunked = False
        elif not self._chunked:
            self._request.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._transport.write(self._head(status, headers, framing))
        self._connection.rest()

    def write(self, data: bytes) -> None:
        """Sends one piece of the body, at least one byte."""
        self.bytes_written += len(data)
        if not self.gone:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    @property
    def chunked(self) -> bool:
        """Whether the body is sent in chunks, so that `write_chunk` may be used."""
        return self._chunked

    def write_chunk(self, chunk: bytes, size: int) -> None:
        """Sends one piece of the body that has its framing already; `size` is without it."""
        self.bytes_written += size
        if not self.gone:
            self._transport.write(chunk)

    def end(self, *, close: bool = False) -> None:
        """Ends the response; `close` closes the connection behind it."""
        if self.gone:
            return
        if close:
            self._request.keep_alive = False
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._complete()

    def break_off(self) -> None:
        """Closes the connection without ending the response: the client must see that it is not whole."""
        if not self.gone:
            self.ended = True
            self._let_go()
            self._transport.close()

    def fail(self, error: PenstockError) -> None:
        """Lets the client see that a response that has begun is not whole, as befits what was begun."""
        if self.on_failure is not None:
            self.on_failure(error)
        else:
            self.break_off()

    # -- the connection's side ------------------------------------------------------------------------

    def disconnected(self) -> None:
        """The client has gone."""
        if not self.gone:
            self.gone = True
            on_disconnect = self.on_disconnect
            self._let_go()
            if on_disconnect is not None:
                on_disconnect()

    def writing_paused(self, *, paused: bool) -> None:
        """The client reads more slowly than we write, or can take more again."""
        self.write_paused = paused
        if self.on_write_pause is not None:
            self.on_write_pause(paused)

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        self.started = True
        request = self._request
        if request.more_body:  # what is left of the request would be read as the next one
            request.keep_alive = False
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        close = b"" if request.keep_alive else b"connection: close\r\n"
        date = self._connection.listener.date_line
        return b"%b%b%b%b%b\r\n" % (status_line(status), date, lines, framing, close)

    def _complete(self) -> None:
        request = self._request
        self.ended = request.response_complete = True
        self._let_go()
        if not request.keep_alive and not request.more_body:  # else the connection waits for the rest to come
            self._transport.close()
        self._connection.response_complete()

    def _let_go(self) -> None:
        """Drops those who listen: they refer to us, and must not wait for the garbage collector."""
        self.on_disconnect = self.on_write_pause = self.on_failure = None
