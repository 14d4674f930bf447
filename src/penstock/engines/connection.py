"""One HTTP/1.1 connection to an engine: a protocol around httptools' parser, one exchange at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import httptools

from penstock.engines.alarm import Alarm
from penstock.engines.exchange import ConnectionLostError, Exchange, Headers, MalformedResponseError

# vLLM's and llama.cpp's heads are under 1 KB; more than this is no head of an engine.
HEAD_BYTES_MAX = 64 * 1024

# A machine that is out of reach acknowledges nothing; the kernel of one that is busy does, however silent its engine.
UNACKNOWLEDGED_S = 20
# But Linux ends a connection after TCP_USER_TIMEOUT also where the other end acknowledges all that it is asked, and has
# no room for more. For so much there is room before an engine that is busy reads; 64 KiB at first, by default.
ROOM_BYTES = 32 * 1024

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

# The size lines of chunks that are passed on with their framing, as engines write them. A larger one is no token.
_CHUNK_SIZES = {b"%x" % size: size for size in range(1, 1024)} | {
    b"%X" % size: size for size in range(1, 1024)
}
_SIZE_LINE_BYTES_MAX = 5


class EngineConnection(asyncio.Protocol):
    """A connection that is idle in the pool, or carries one exchange.

    Args:
        on_free: told when a response is complete and the connection may carry another.
        on_lost: told once when the connection is gone.
        alarm: kept for the exchanges, one after the other.
    """

    __slots__ = (
        "_between_chunks",
        "_body",
        "_exchange",
        "_head_bytes",
        "_headers",
        "_informational",
        "_keep_alive",
        "_on_free",
        "_on_lost",
        "_parser",
        "_transport",
        "_until_close",
        "_waits_for_room",
        "alarm",
        "reused",
    )

    def __init__(
        self,
        on_free: Callable[[EngineConnection], None],
        on_lost: Callable[[EngineConnection], None],
        alarm: Alarm | None = None,
    ) -> None:
        self.alarm = alarm
        self._on_free = on_free
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._informational = False
        self._until_close = False
        self._keep_alive = False
        self._between_chunks = False
        self._waits_for_room = True  # as any socket does
        self.reused = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it now."""
        return self._exchange is None and self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Sends a whole request; its response goes to `exchange`."""
        assert self._transport is not None
        assert self._exchange is None
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._between_chunks = False
        if self._waits_for_room != (len(request) > ROOM_BYTES):
            self._wait_for_room(not self._waits_for_room)
        self._transport.write(request)

    def close(self) -> None:
        """Closes the connection after what is written has left."""
        if self._transport is not None:
            self._transport.close()

    def _wait_for_room(self, waits: bool) -> None:
        """Waits for what has no room at the other end as long as the exchange may last, or `UNACKNOWLEDGED_S`."""
        assert self._transport is not None
        self._waits_for_room = waits
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            limit_ms = 0 if waits else UNACKNOWLEDGED_S * 1000
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)

    # -- Channel, for the exchange --------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Stops reading from the engine."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads from the engine again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Bytes from the engine: parsed, then handed on as one piece of body."""
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:  # an idle connection that talks is not to be trusted
            self.abort()
            return
        if self._between_chunks and exchange.on_chunk is not None:
            # a read that is one whole chunk, as most of a stream are: the parser need not see it
            end = data.find(b"\r\n", 0, _SIZE_LINE_BYTES_MAX)
            size = _CHUNK_SIZES.get(data[:end])
            if size == len(data) - end - 4 and data.endswith(b"\r\n") and exchange.on_chunk(data, size):
                return
        if not exchange.status:
            exchange.answered = True
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            exchange.fail(MalformedResponseError(f"the engine's response is not HTTP/1.1: {error}"))
            return
        if not exchange.status and self._head_bytes > HEAD_BYTES_MAX:
            exchange.fail(MalformedResponseError("the engine's response head is too large"))
        if not data.endswith(b"\r\n"):  # the beginning of a size line calls nobody
            self._between_chunks = False
        body = self._body
        if body:
            data = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            exchange.on_data(data)
        if self._parser is None and self._exchange is exchange:
            self._finish(exchange)

    def eof_received(self) -> None:
        """The engine has no more to say."""
        if self._until_close and self._exchange is not None:
            self._parser = None
            self._finish(self._exchange, keep=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        exchange, self._exchange = self._exchange, None
        self._transport = self._parser = None
        if self.alarm is not None:
            self.alarm.close()
        self._on_lost(self)
        if exchange is not None:
            reason = f" ({exc})" if exc else ""
            exchange.fail(ConnectionLostError(f"the engine closed the connection{reason}"))

    def _finish(self, exchange: Exchange, *, keep: bool = True) -> None:
        self._exchange = None
        exchange.on_complete()
        if keep and self._keep_alive:
            self._head_bytes = 0
            exchange.resume()
            self._on_free(self)
        else:
            self.close()

    # -- httptools ------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; trailers, which come behind the body, are dropped."""
        if self._exchange is not None and not self._exchange.status:
            self._headers.append((USUAL_NAMES.get(name) or name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        assert self._parser is not None
        assert self._exchange is not None
        status = self._parser.get_status_code()
        self._informational = status < 200
        if self._informational:
            self._headers = []
            return
        self._until_close = status not in (204, 304) and not any(
            name in _FRAMING for name, _ in self._headers
        )
        self._keep_alive = self._parser.should_keep_alive() and not self._until_close
        headers, self._headers = self._headers, []
        self._exchange.on_head(status, headers)

    def on_body(self, data: bytes) -> None:
        """One piece of body; a read may hold several."""
        self._body.append(data)

    def on_chunk_header(self) -> None:
        """The size line of a chunk has been read."""
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        """A chunk is whole: what comes next begins with a size line."""
        self._between_chunks = True

    def on_message_complete(self) -> None:
        """The response is whole; `data_received` finishes it after the body was handed on."""
        if not self._informational:
            self._parser = None


# Headers' names in lower case: one object for all headers of a usual name, since streams keep them.
USUAL_NAMES = {
    spelled: name
    for name in (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-length",
        b"content-type",
        b"date",
        b"host",
        b"server",
        b"traceparent",
        b"transfer-encoding",
        b"user-agent",
        b"x-forwarded-for",
        b"x-request-id",
        *(b"x-stainless-" + what for what in (b"arch", b"async", b"lang", b"os", b"package-version")),
        *(
            b"x-stainless-" + what
            for what in (b"read-timeout", b"retry-count", b"runtime", b"runtime-version")
        ),
    )
    for spelled in (name, name.title())
}
