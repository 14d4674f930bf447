"""One HTTP/1.1 connection of the simulated engine: parses requests, and is the wire of their replies.

One request is served at a time; pipelined ones wait, up to a bound. A client that leaves, whatever it was
waiting for, is told to the server at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, cast

import httptools

_PIPELINED_MAX = 32
_HEAD_BYTES_MAX = 64 * 2**10
_WRITE_BUFFER_BYTES_HIGH = 64 * 2**10
_FLUSH_POLL_S = 0.001
_LINGER_ZERO = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close sends RST


@dataclass(frozen=True, slots=True)
class Request:
    """A request as received; header names in lower case."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    chunked_reply: bool

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> str:
        """The first value of a header, or an empty string."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


class Underway(Protocol):
    """A reply that is not finished yet."""

    def block(self) -> None:
        """The socket takes no more for now."""

    def wake(self) -> None:
        """The socket takes more again."""

    def cancel(self) -> None:
        """The client has left."""


class Site(Protocol):
    """What a connection belongs to."""

    body_bytes_max: int

    def joined(self, connection: Connection) -> bool:
        """Notes a new connection; False where it is one too many."""

    def left(self, connection: Connection) -> None:
        """Forgets a connection."""

    def serve(self, connection: Connection, request: Request) -> None:
        """Answers a request on `connection`, now or later."""


class Connection(asyncio.Protocol):
    """A client's connection.

    Args:
        site: what answers.
        loop: gives time and timers.
    """

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self._site = site
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._pending: deque[tuple[Request, bool]] = deque()
        self._keep_alive = True
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0
        self.underway: Underway | None = None
        self.busy = False
        self.writable = True
        self.close_unannounced = False
        self.idle_since_s = loop.time()

    # -- asyncio's calls ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES_HIGH)
        if not self._site.joined(self):
            self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The client has left, or was left."""
        self._transport = None
        self._site.left(self)
        self._pending.clear()
        underway, self.underway = self.underway, None
        if underway is not None:
            underway.cancel()

    def eof_received(self) -> bool:
        """The client has closed its side: taken as leaving, as uvicorn does."""
        return False

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Offers of HTTP/2 and the like are passed over; what follows them is not read.
            self._keep_alive = False
            if not self.busy:
                self._refuse(HTTPStatus.BAD_REQUEST)
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self.writable = False
        if self.underway is not None:
            self.underway.block()

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self.writable = True
        if self.underway is not None:
            self.underway.wake()

    # -- httptools' calls ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target = b""
        self._headers = []
        self._body = []
        self._head_bytes = 0
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the target has come."""
        self._target += url
        self._grow_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        self._headers.append((name.lower(), value))
        self._grow_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The body begins."""
        if any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        self._body_bytes += len(body)
        if self._body_bytes <= self._site.body_bytes_max:
            self._body.append(body)
        else:
            self._body.clear()
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self._transport is None or self._transport.is_closing():
            return
        parser = self._parser
        request = Request(
            parser.get_method().decode("ascii"),
            self._target.decode("latin-1"),
            tuple(self._headers),
            b"".join(self._body),
            parser.get_http_version() == "1.1",
        )
        keep_alive = parser.should_keep_alive()
        if not self.busy:
            self._begin(request, keep_alive)
        elif len(self._pending) < _PIPELINED_MAX:
            self._pending.append((request, keep_alive))
        else:
            self.reset()

    # -- what a reply does --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Sends `data`; nothing where the client has left."""
        if self._transport is not None:
            self._transport.write(data)

    def head(self, status: int, headers: bytes) -> bytes:
        """The head of a reply: status line, `headers` (each with its line end), and the connection's own."""
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
        close = b"" if self._keep_alive or self.close_unannounced else b"connection: close\r\n"
        return b"HTTP/1.1 %d %b\r\nserver: penstock-sim\r\n%b%b\r\n" % (
            status,
            phrase.encode(),
            headers,
            close,
        )

    def end(self) -> None:
        """The reply is whole: on to the next request, or the end of the connection."""
        self.underway = None
        self.busy = False
        self.idle_since_s = self._loop.time()
        if self._transport is None:
            return
        if not self._keep_alive or self.close_unannounced:
            self._transport.close()
        elif self._pending:
            self._begin(*self._pending.popleft())

    def reset(self) -> None:
        """Sends what was written, then resets the connection."""
        self.underway = None
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size():
            self._loop.call_later(_FLUSH_POLL_S, self.reset)
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            # uvloop's own socket object sets no options; a duplicate of its descriptor does.
            with socket.socket(fileno=os.dup(sock.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()

    def close_if_idle(self, idle_s: float = 0.0) -> None:
        """Closes the connection where it has waited that long for a request."""
        if self._transport is not None and not self.busy and self._loop.time() - self.idle_since_s >= idle_s:
            self._transport.close()

    def close_when_done(self) -> None:
        """Makes the reply under way the last one; closes the connection where there is none."""
        self._keep_alive = False
        self.close_if_idle()

    def abandon(self) -> None:
        """Drops the connection with whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    # -- within -------------------------------------------------------------------------------------

    def _begin(self, request: Request, keep_alive: bool) -> None:
        self.busy = True
        # A reply to HTTP/1.0 ends with its connection: it may be a stream, and those clients read no chunks.
        self._keep_alive = keep_alive and request.chunked_reply
        self.close_unannounced = False
        self._site.serve(self, request)

    def _grow_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > _HEAD_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _refuse(self, status: HTTPStatus) -> None:
        """Ends a connection that can't be understood; says why, unless a reply is half-way out."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self.busy:
            self._keep_alive = False
            transport.write(self.head(status, b"content-length: 0\r\n"))
        transport.close()
