"""A request's body, bounded in size and time."""

from __future__ import annotations

import asyncio

from penstock.core.errors import ClientError
from penstock.core.units import format_size
from penstock.gateway.request import Request


async def read_body(request: Request, *, bytes_max: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        ClientError: 413 when it is larger than `bytes_max` (said from `content-length` before any of it is
            read, where that is given), 408 when it takes longer than `timeout_s` seconds.
        asyncio.CancelledError: the client has gone.
    """
    if request.announced_bytes > bytes_max:
        raise _too_large(bytes_max)
    if request.more_body:
        try:
            async with asyncio.timeout(timeout_s):
                body = await request.read(bytes_max)
        except TimeoutError:
            raise ClientError(
                f"the request's body did not arrive within {timeout_s:.3g} s",
                code="body_timeout",
                hint="send it faster, or raise gateway.body_timeout",
                status=408,
            ) from None
    else:
        body = request.take()
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


def _too_large(bytes_max: int) -> ClientError:
    return ClientError(
        f"the request's body is larger than {format_size(bytes_max)}",
        code="body_too_large",
        hint="send less, or raise gateway.body_max",
        status=413,
    )
