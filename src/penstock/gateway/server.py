"""The listeners: the public one, and the admin one that is never public; from start to drained."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn

from penstock.core.config import Address, GatewayConfig
from penstock.core.errors import PenstockError
from penstock.gateway.inference import Inference, is_inference
from penstock.gateway.protocol import ConnectionLimits, GatewayProtocol
from penstock.gateway.request_id import HEADER, request_id_of

# Connections that wait to be accepted; the kernel's own limit is lower on most machines.
BACKLOG = 2048
# The date header has a resolution of a second.
DATE_EVERY_S = 1.0
# How long a stream that was cut at the drain timeout may take to hear of it.
CUT_S = 2.0


class Front:
    """The public ASGI application: inference goes its own way, FastAPI serves the rest."""

    def __init__(self, inference: Inference, api: Any) -> None:
        self._inference = inference
        self._api = _WithRequestId(api)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] == "http" and is_inference(scope["method"], scope["path"]):
            await self._inference(scope, receive, send)
        else:
            await self._api(scope, receive, send)


class GatewayServer:
    """Serves until SIGTERM or SIGINT, then drains: readiness fails first, open requests finish, new ones get
    503; then it stops listening."""

    def __init__(self, config: GatewayConfig, public: Front, admin: Any, inference: Inference) -> None:
        self._config = config
        self._inference = inference
        self._stop = asyncio.Event()
        self._apps = (
            (public, config.listen, "gateway.listen"),
            (_WithRequestId(admin), config.admin, "gateway.admin"),
        )

    async def run(self) -> None:
        """Serves.

        Raises:
            PenstockError: an address can't be listened on.
        """
        sockets = [listen(address, path) for _, address, path in self._apps]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        servers = [_Server(self._uvicorn_config(app)) for app, _, _ in self._apps]
        serving = [
            asyncio.create_task(server.serve(sockets=[sock]))
            for server, sock in zip(servers, sockets, strict=True)
        ]
        await self._stop.wait()
        await self._inference.drain(self._config.drain_timeout_s, CUT_S)
        for server in servers:
            server.stop()
        await asyncio.gather(*serving)

    def _uvicorn_config(self, app: Any) -> uvicorn.Config:
        limits = ConnectionLimits(self._config.header_timeout_s, self._config.connections_max)
        protocol: Any = partial(GatewayProtocol, limits=limits)
        return uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=self._config.keep_alive_s,  # type: ignore[arg-type]  # seconds, passed to call_later
            timeout_graceful_shutdown=1,
        )


def listen(address: Address, path: str) -> socket.socket:
    """A listening socket; `path` names the setting in a complaint.

    Raises:
        PenstockError: the address is taken, not ours, or not allowed.
    """
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError as error:
        raise PenstockError(
            f"{path}: can't listen on {address}: {error.strerror or error}",
            code="cannot_listen",
            hint=f"stop what uses it, or set {path} to another address",
        ) from None
    sock.setblocking(False)
    return sock


class _Server(uvicorn.Server):
    """Uvicorn's server, told when to stop instead of looking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ends the server."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Keeps the date header right until the server is stopped."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_EVERY_S):
                    await self._stopped.wait()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to `GatewayServer`."""
        yield


class _WithRequestId:
    """An application whose every response carries `x-request-id`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                request_id = request_id_of(scope["headers"]).encode()
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)
