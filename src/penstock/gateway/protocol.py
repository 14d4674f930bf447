"""The HTTP/1.1 side that clients see: httptools' parser, and limits on everything that a client can make us keep.

A request for an engine becomes a `Request` with a `Responder`, and goes straight to `Inference`; any other one
goes to the ASGI application by an `ApiCall`. Answers leave in the order of the requests.
Limits: time for a request's head, size of the head, connections at once. A refused request is answered in
OpenAI's shape, and its connection is closed so that the client can still read the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools

from penstock.core.errors import ClientError, OverloadError, PenstockError
from penstock.engines.alarm import Alarm
from penstock.engines.connection import USUAL_NAMES
from penstock.engines.exchange import Headers
from penstock.gateway.addresses import ClientAddresses
from penstock.gateway.asgi import ApiCall, ApiRequest, scope_of
from penstock.gateway.request import Request
from penstock.gateway.responder import Responder
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
        keep_alive_s: how long a connection may wait for its next request.
        connections_max: open connections at once, in this process.
        body_bytes_max: of a request that goes to no engine; for the others a reload may change it.
        body_timeout_s: for such a body.
    """

    header_timeout_s: float
    keep_alive_s: float
    connections_max: int
    body_bytes_max: int
    body_timeout_s: float


# Shown from the first scrape on.
_CONNECTION_LIMITS = ("too_many_connections", "too_many_connections_from_address")


class Listener:
    """What all connections of one listening socket share.

    Args:
        app: the ASGI application for what is not for an engine.
        inference: starts to serve a request for an engine.
        addresses: limits of each client address; None is no limit.
        route_of: the route of a request for an engine, by method and path; None for any other request.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        app: Any,
        inference: Callable[[Request, Responder], None] | None = None,
        route_of: Callable[[bytes, bytes], str | None] = lambda _method, _path: None,
        addresses: ClientAddresses | None = None,
    ) -> None:
        self.addresses = addresses
        self.limits = limits
        self.app = app
        self.inference = inference
        self.route_of = route_of
        self.connections: set[GatewayProtocol] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.refused = dict.fromkeys(_CONNECTION_LIMITS, 0)  # by code; what has no record is counted here
        self.date = b""
        self.date_line = b""

    def set_date(self, date: bytes) -> None:
        """Sets the time that answers carry."""
        self.date = date
        self.date_line = b"date: %b\r\n" % date

    def connection(self) -> GatewayProtocol:
        """A protocol for a connection that is about to be made."""
        return GatewayProtocol(self)


class GatewayProtocol(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_address",
        "_alarm",
        "_answering",
        "_awaits_head",
        "_expects_continue",
        "_framing_bytes",
        "_head_bytes",
        "_head_timed",
        "_headers",
        "_in_trailers",
        "_lingered_bytes",
        "_loop",
        "_newest",
        "_parser",
        "_read_paused",
        "_responder",
        "_url",
        "_waiting",
        "_write_timer",
        "listener",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.write_paused = False
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = None
        self._alarm = Alarm(self._loop, self._waited_too_long)
        self._write_timer: asyncio.TimerHandle | None = None
        self._address: str | None = None  # under which it is counted
        self._headers: Headers = []
        self._url = b""
        self._expects_continue = False
        self._head_bytes = 0  # of the head that is being read
        self._framing_bytes = 0  # of the message behind it, that are no body
        self._head_timed = True  # from the opening of the connection
        self._awaits_head = True
        self._in_trailers = False
        self._read_paused = False
        self._lingered_bytes: int | None = None
        self._newest: Request | None = None  # whose body is being read
        self._answering: Request | None = None
        self._responder: Responder | None = None
        self._waiting: list[Request] = []  # for the answer to an earlier one

    # -- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        listener = self.listener
        listener.connections.add(self)
        try:
            if len(listener.connections) > listener.limits.connections_max:
                raise _too_many_connections(listener.limits.connections_max)
            if listener.addresses is not None:
                self._address = listener.addresses.connect(self.peer())
        except PenstockError as error:
            self.refuse(error)
        else:
            self._alarm.set(self._loop.time() + listener.limits.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Requests, or parts of them."""
        if self._lingered_bytes is not None:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > LINGER_BYTES_MAX:
                self.transport.abort()
            return
        if self._awaits_head:
            if not self._head_bytes:
                data = data.lstrip(b"\r\n")  # RFC 9112, 2.2: what old clients send
            data = _without_upgrade(data)
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        try:
            (self._parser or self._new_parser()).feed_data(data)
        except httptools.HttpParserUpgrade:  # CONNECT: what follows it is no HTTP
            if self._newest is not None:
                self._newest.keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse_malformed(cause if isinstance(cause, PenstockError) else _malformed())
            return
        if self._head_bytes > HEAD_BYTES_MAX or self._framing_bytes > HEAD_BYTES_MAX:
            self._refuse_large_head()
        elif self._awaits_head and self._head_bytes and self._answering is None:
            self._expect_rest_of_head()

    def eof_received(self) -> None:
        """The client says no more; the transport closes, as it has nobody left to answer."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """The client has gone."""
        self.listener.connections.discard(self)
        if self._address is not None and self.listener.addresses is not None:
            self.listener.addresses.disconnect(self._address)
            self._address = None
        self._alarm.close()
        self._stop_write_timer()
        self._parser = None  # it refers to us
        self._waiting.clear()
        self._answering = self._newest = None
        responder, self._responder = self._responder, None
        if responder is not None:
            responder.disconnected()

    def pause_writing(self) -> None:
        """The client does not take what was written."""
        self.write_paused = True
        self._write_timer = self._loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)
        if self._responder is not None:
            self._responder.writing_paused(paused=True)

    def resume_writing(self) -> None:
        """The client takes it again."""
        self.write_paused = False
        self._stop_write_timer()
        if not self._waiting:
            self.resume_reading()
        if self._responder is not None:
            self._responder.writing_paused(paused=False)

    # -- httptools ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_trailers = self._expects_continue = False
        # begun behind another request in one read: not counted there
        self._head_bytes = self._head_bytes or 1
        self._url = b""

    def on_url(self, url: bytes) -> None:
        """The target of the request line, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        if self._in_trailers:  # RFC 9110, 6.5.1: a trailer must not pass for a header
            return
        name = USUAL_NAMES.get(name) or name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: the request begins, or waits for its turn."""
        if len(self._waiting) >= PIPELINE_LEN_MAX:
            raise _PipelineTooLongError
        self._awaits_head = False
        self._in_trailers = True
        self._head_bytes = self._framing_bytes = 0
        self._head_timed = False
        self._alarm.clear()
        self._newest = request = self._request()
        self._headers.clear()
        if self._answering is None:
            self._start(request)
        else:
            self._waiting.append(request)
            self._pause_reading()

    def on_body(self, body: bytes) -> None:
        """One piece of the body."""
        # A chunk of one byte comes with five of framing: no honest client sends worse.
        self._framing_bytes = max(0, self._framing_bytes - 8 * len(body))
        newest = self._newest
        if newest is None or newest.response_complete:
            return
        if not newest.add(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._awaits_head = True
        self._framing_bytes = 0
        newest = self._newest
        if newest is not None and not newest.response_complete:
            newest.complete()

    # -- from head to response ------------------------------------------------------------------------

    def _request(self) -> Request:
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        keep_alive = version != "1.0" and parser.should_keep_alive()
        if version == "1.1" and [name for name, _ in self._headers].count(b"host") != 1:
            raise _host_unclear()  # RFC 9112, 3.2
        method = parser.get_method()
        route = self.listener.route_of(method, self._url)
        if route is not None:
            return Request(self, route, self._headers, http_1_1=version == "1.1", keep_alive=keep_alive)
        scope = scope_of(self.transport, method, version, self._url, self._headers.copy())
        request = ApiRequest(
            self, scope["path"], self._headers, http_1_1=version == "1.1", keep_alive=keep_alive
        )
        request.scope = scope
        return request

    def _start(self, request: Request) -> None:
        self._answering = request
        listener = self.listener
        self._responder = responder = Responder(self, request)
        if not isinstance(request, ApiRequest):
            assert listener.inference is not None
            listener.inference(request, responder)
            return
        limits = listener.limits
        call = ApiCall(
            request, responder, body_bytes_max=limits.body_bytes_max, body_timeout_s=limits.body_timeout_s
        )
        task = self._loop.create_task(call.run(listener.app))
        task.add_done_callback(listener.tasks.discard)
        listener.tasks.add(task)

    def response_complete(self) -> None:
        """The answer that was under way is written; the next request may come, if the client takes its answers."""
        answered, self._answering, self._responder = self._answering, None, None
        if self.transport.is_closing() or answered is None:
            return
        if self._waiting:
            self._start(self._waiting.pop(0))
        elif answered.more_body:
            self.linger()
            return
        elif self._head_bytes:
            self._expect_rest_of_head()
        else:
            self._newest = None
            self._alarm.set(self._loop.time() + self.listener.limits.keep_alive_s)
        if self._waiting or self.write_paused:
            self._pause_reading()
        else:
            self.resume_reading()

    def rest(self) -> None:
        """A long answer begins: lets go of what only the next request needs."""
        if self._awaits_head and not self._head_bytes:
            self._parser = None
            self._alarm.stop()

    def shutdown(self) -> None:
        """Closes the connection, once its answer is written."""
        if self._newest is None or self._newest.response_complete:
            self.transport.close()
        else:
            self._newest.keep_alive = False

    def _new_parser(self) -> httptools.HttpRequestParser:
        self._parser = parser = httptools.HttpRequestParser(self)
        # a request behind one that asked to close the connection does not spoil the answer to that one
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # -- reading --------------------------------------------------------------------------------------

    def resume_reading(self) -> None:
        """Reads from the client again."""
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def feed(self) -> None:
        """Lets the body of the request that is being answered come."""
        if self.transport.is_closing():
            return
        if self._expects_continue and self._newest is self._answering:
            self._expects_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.resume_reading()

    def peer(self) -> str:
        """The address at the other end."""
        peer = self.transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    # -- refusing -------------------------------------------------------------------------------------

    def refuse(self, error: PenstockError) -> None:
        """Answers `error` and ends the connection."""
        self._alarm.clear()
        if self._lingered_bytes is not None or self.transport.is_closing():
            return
        refused = self.listener.refused
        refused[error.code] = refused.get(error.code, 0) + 1
        if self._answering is not None:  # an answer is under way: no room for another
            self.transport.abort()
            return
        self.transport.write(raw_error_response(error))
        self.linger()

    def linger(self) -> None:
        """Ends our side and throws away what still comes, so that a reset does not overtake the answer."""
        if self._lingered_bytes is None and not self.transport.is_closing():
            self._lingered_bytes = 0
            self.resume_reading()
            self.transport.write_eof()
            self._loop.call_later(LINGER_S, self.transport.abort)

    def _refuse_malformed(self, error: PenstockError) -> None:
        newest = self._newest
        if newest is not None and newest.more_body and not newest.response_complete:
            newest.fail(error)  # amid its body: it has a task, and a record
        else:
            self.refuse(error)

    def _refuse_large_head(self) -> None:
        self.refuse(
            ClientError(
                f"the request's headers are larger than {HEAD_BYTES_MAX} bytes",
                code="headers_too_large",
                hint="send fewer or shorter headers",
                status=431,
            )
        )

    # -- time -----------------------------------------------------------------------------------------

    def _expect_rest_of_head(self) -> None:
        if not self._head_timed:
            self._head_timed = True
            self._alarm.set(self._loop.time() + self.listener.limits.header_timeout_s)

    def _waited_too_long(self) -> None:
        if not self._head_bytes:
            self.transport.close()
            self._loop.call_later(LINGER_S, self.transport.abort)  # where it takes nothing of what is written
            return
        timeout_s = self.listener.limits.header_timeout_s
        self.refuse(
            ClientError(
                f"no whole request head within {timeout_s:.3g} s",
                code="header_timeout",
                hint="send the headers at once",
                status=408,
            )
        )

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _without_upgrade(data: bytes) -> bytes:
    """A request's head without its offers to change the protocol; llhttp would stop reading at one."""
    if b"pgrade:" not in data and b"PGRADE:" not in data:
        return data
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + body


def _malformed() -> ClientError:
    return ClientError(
        "this is not a valid HTTP/1.1 request",
        code="invalid_http",
        hint="check the request line, the headers and the framing of the body",
    )


def _host_unclear() -> ClientError:
    return ClientError(
        "an HTTP/1.1 request must have one Host header",
        code="invalid_host",
        hint="send the header `Host`, once",
    )


def _too_many_connections(connections_max: int) -> OverloadError:
    return OverloadError(
        f"{connections_max} connections are open already",
        code="too_many_connections",
        hint="try again, or raise gateway.connections_max",
        retry_after_s=1,
    )
