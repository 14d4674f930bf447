"""Requests for the ASGI application: what it receives comes from a `Request`, what it sends goes to a `Responder`.

ASGI's HTTP messages, version 2.4: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

import httptools

from penstock.core.errors import ClientError, InternalError, PenstockError
from penstock.engines.exchange import Headers
from penstock.gateway.body import read_body
from penstock.gateway.request import Request
from penstock.gateway.request_id import HEADER, request_id_of
from penstock.gateway.responder import Responder
from penstock.gateway.responses import error_body, error_headers

_BODYLESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_LOG = logging.getLogger(__name__)

Message = MutableMapping[str, Any]


class ApiRequest(Request):
    """A request for the application, with its ASGI `scope`."""

    __slots__ = ("scope",)

    scope: dict[str, Any]


class ApiCall:
    """One request of the application, from `run` to its answer.

    Args:
        body_bytes_max: the largest body that the application is given.
        body_timeout_s: for all of it, once the application asks for it.
    """

    def __init__(
        self, request: ApiRequest, responder: Responder, *, body_bytes_max: int, body_timeout_s: float
    ) -> None:
        self._request = request
        self._responder = responder
        self._body_bytes_max = body_bytes_max
        self._body_timeout_s = body_timeout_s
        self._has_read = False
        self._head: tuple[int, Headers] | None = None  # told, and not sent yet
        self._over = asyncio.Event()
        self._writable = asyncio.Event()
        self._on_write_pause(responder.write_paused)
        responder.on_write_pause = self._on_write_pause
        responder.on_disconnect = self._on_disconnect

    async def run(self, app: Any) -> None:
        """Lets `app` answer; what it leaves undone the client sees as an error."""
        request, responder = self._request, self._responder
        try:
            request.check()
            await app(request.scope, self._receive, self._send)
        except PenstockError as error:  # which the application's own do not reach
            self._answer(error)
        except Exception:
            if not responder.gone:
                _LOG.exception("%s %s failed", request.scope["method"], request.path)
        finally:
            if not responder.started:
                self._answer(InternalError("the request was not answered"))
            elif not responder.ended:
                responder.break_off()
            self._end()

    async def _receive(self) -> Message:
        if not self._has_read:
            self._has_read = True
            try:
                body = await read_body(
                    self._request, bytes_max=self._body_bytes_max, timeout_s=self._body_timeout_s
                )
            except PenstockError as error:  # of which the application would make something else
                self._answer(error)
                self._end()
            else:
                return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        responder = self._responder
        if responder.gone:
            raise OSError("the client has gone")
        if responder.ended:
            return
        if message["type"] == "http.response.start":
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            self._head = (message["status"], headers)
            return
        has_no_body = self._request.scope["method"] == "HEAD"
        if self._head is not None:
            status, headers = self._head
            self._head = None
            has_no_body = has_no_body or status in _BODYLESS
            is_sized = has_no_body or any(name == b"content-length" for name, _ in headers)
            responder.start(status, headers, is_sized=is_sized)
        body = message.get("body", b"")
        if body and not has_no_body:
            responder.write(bytes(body))
        if message.get("more_body", False):
            await self._writable.wait()
        else:
            responder.end()
            self._end()

    def _answer(self, error: PenstockError) -> None:
        """Answers `error`, if there is anybody to answer, and nothing has been."""
        if not self._responder.gone and not self._responder.started:
            request_id = request_id_of(self._request.scope["headers"]).encode()
            headers = [*error_headers(error), (HEADER, request_id)]
            self._responder.respond(error.status, headers, error_body(error))

    def _on_disconnect(self) -> None:
        self._request.fail(ClientError("the client has gone"))  # where its body is waited for
        self._end()

    def _end(self) -> None:
        """Nothing more is waited for."""
        self._over.set()
        self._writable.set()

    def _on_write_pause(self, paused: bool) -> None:
        if paused:
            self._writable.clear()
        else:
            self._writable.set()


def scope_of(
    transport: asyncio.Transport, method: bytes, version: str, target: bytes, headers: Headers
) -> dict[str, Any]:
    """The ASGI scope of a request.

    Raises:
        httptools.HttpParserError, ValueError: `target` is no URL.
    """
    url = httptools.parse_url(target)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": version,
        "method": method.decode("ascii"),
        "scheme": "http",
        "path": target_path(target),
        "raw_path": url.path or b"",
        "query_string": url.query or b"",
        "root_path": "",
        "headers": headers,
        "client": _address(transport, "peername"),
        "server": _address(transport, "sockname"),
        "state": {},
    }


def target_path(target: bytes) -> str:
    """The path that a request's target names, without its query, and with what was quoted as it was meant.

    Raises:
        httptools.HttpParserError, ValueError: `target` is no URL.
    """
    path = (httptools.parse_url(target).path or b"").decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path


def _address(transport: asyncio.Transport, name: str) -> tuple[str, int] | None:
    address = transport.get_extra_info(name)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
