"""Requests for the ASGI application: uvicorn's own account of one, made from what our connection has read."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from penstock.engines.exchange import Headers

if TYPE_CHECKING:
    from penstock.gateway.protocol import GatewayProtocol

# A body that the application has not asked for yet is held back beyond this.
UNREAD_BYTES_MAX = 64 * 1024

_LOG = logging.getLogger("uvicorn.error")


class ApiFlow:
    """What uvicorn's account of a request asks of its connection."""

    __slots__ = ("_connection", "writable")

    def __init__(self, connection: GatewayProtocol) -> None:
        self._connection = connection
        self.writable = asyncio.Event()
        if not connection.write_paused:
            self.writable.set()

    @property
    def write_paused(self) -> bool:
        """Whether the client has yet to take what was written."""
        return self._connection.write_paused

    async def drain(self) -> None:
        """Waits until it has."""
        await self.writable.wait()

    def resume_reading(self) -> None:
        """Reads from the client again."""
        self._connection.resume_reading()


def api_request(
    connection: GatewayProtocol,
    flow: ApiFlow,
    scope: dict[str, Any],
    *,
    expects_continue: bool,
    keep_alive: bool,
) -> RequestResponseCycle:
    """The request of `scope`, ready to be run."""
    return RequestResponseCycle(
        scope=cast("Any", scope),
        transport=connection.transport,
        flow=cast("Any", flow),
        logger=_LOG,
        access_logger=_LOG,
        access_log=False,
        default_headers=[(b"date", connection.listener.date)],
        message_event=asyncio.Event(),
        expect_100_continue=expects_continue,
        keep_alive=keep_alive,
        on_response=connection.response_complete,
    )


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
        "asgi": {"version": "3.0", "spec_version": "2.3"},
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
