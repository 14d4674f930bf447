"""The listener of `/metrics`: small, and bounded in everything that a client can do.

A client gets one page for each request, and may keep its connection. One that sends a long head, is slow with it, or
is one too many, loses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import httptools

from penstock.telemetry.families import EXPOSITION_TYPE

HEAD_BYTES_MAX = 16 * 1024
CONNECTIONS_MAX = 64
"""Two Prometheus servers and some people with curl."""
IDLE_S_MAX = 120.0
"""Longer than any interval of scraping; a head that takes as long is none."""
UNSENT_BYTES_MAX = 4 * 1024 * 1024
"""Of answers that a client does not take; more, and it is left."""

_HINT = b"penstock exporter: GET /metrics\n"


class Listener:
    """All connections.

    Args:
        page: makes the text of `/metrics`.
    """

    def __init__(self, page: Callable[[], bytes]) -> None:
        self.page = page
        self.connections: set[_Connection] = set()

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a connection that is about to be made."""
        return _Connection(self)

    def close(self) -> None:
        """Leaves all clients."""
        for connection in tuple(self.connections):
            connection.leave()


class _Connection(asyncio.Protocol):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._url = b""
        self._head_bytes = 0

    # -- asyncio's calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._listener.connections.add(self)
        if len(self._listener.connections) > CONNECTIONS_MAX:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many connections\n")
            self.leave()
            return
        self._wait()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._listener.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        try:
            if self._head_bytes > HEAD_BYTES_MAX:
                raise ValueError("too much")
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError):
            self._answer(HTTPStatus.BAD_REQUEST, _HINT)
            self.leave()

    def leave(self) -> None:
        """Closes it, once what was written is gone."""
        if self._transport is not None:
            self._transport.close()

    # -- httptools' calls -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        self._wait()
        method, path = self._parser.get_method(), self._url.partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, _HINT)
        elif path == b"/metrics":
            self._answer(HTTPStatus.OK, self._listener.page(), EXPOSITION_TYPE, with_body=method == b"GET")
        elif path == b"/health":
            self._answer(HTTPStatus.OK, b"ok\n", with_body=method == b"GET")
        else:
            self._answer(HTTPStatus.NOT_FOUND, _HINT)
        if not self._parser.should_keep_alive():
            self.leave()

    # -- own ------------------------------------------------------------------------------------------

    def _answer(
        self,
        status: HTTPStatus,
        body: bytes,
        kind: str = "text/plain; charset=utf-8",
        *,
        with_body: bool = True,
    ) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._transport.abort()
            return
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + (body if with_body else b""))

    def _wait(self) -> None:
        """Gives the client some time for its next request."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_S_MAX, self._timed_out)

    def _timed_out(self) -> None:
        if self._transport is not None:
            self._transport.abort()
