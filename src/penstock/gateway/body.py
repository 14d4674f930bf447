"""A request's body, bounded in size and time."""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGIReceiveCallable, HTTPScope

from penstock.core.errors import ClientError
from penstock.core.units import format_size
from penstock.gateway.responder import Responder


async def read_body(
    scope: HTTPScope, receive: ASGIReceiveCallable, responder: Responder, *, bytes_max: int, timeout_s: float
) -> bytes:
    """The whole body.

    Raises:
        ClientError: 413 when it is larger than `bytes_max` (said from `content-length` before any of it is
            read, where that is given), 408 when it takes longer than `timeout_s` seconds.
        asyncio.CancelledError: the client has gone.
    """
    if _announced_bytes(scope) > bytes_max:
        raise _too_large(bytes_max)
    body = responder.body_if_complete()
    if body is None:
        try:
            async with asyncio.timeout(timeout_s):
                body = await _receive_all(receive, bytes_max)
        except TimeoutError:
            raise ClientError(
                f"the request's body did not arrive within {timeout_s:.3g} s",
                code="body_timeout",
                hint="send it faster, or raise gateway.body_timeout",
                status=408,
            ) from None
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


async def _receive_all(receive: ASGIReceiveCallable, bytes_max: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise asyncio.CancelledError
        body += message.get("body", b"")
        if len(body) > bytes_max or not message.get("more_body", False):
            return bytes(body)


def _announced_bytes(scope: HTTPScope) -> int:
    # The parser has refused a content-length that is no number.
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _too_large(bytes_max: int) -> ClientError:
    return ClientError(
        f"the request's body is larger than {format_size(bytes_max)}",
        code="body_too_large",
        hint="send less, or raise gateway.body_max",
        status=413,
    )
