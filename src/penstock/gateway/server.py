"""The listeners: the public one, and the admin one that is never public; from start to drained."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from penstock.core.config import Address, GatewayConfig
from penstock.core.errors import PenstockError
from penstock.gateway.addresses import ClientAddresses
from penstock.gateway.api_answers import ApiAnswers
from penstock.gateway.inference import Inference, inference_route
from penstock.gateway.protocol import ConnectionLimits, Listener
from penstock.gateway.request_id import HEADER, request_id_of
from penstock.gateway.responses import error_body, error_headers
from penstock.telemetry.notify import Notifier

# Connections that wait to be accepted; the kernel's own limit is lower on most machines.
BACKLOG = 2048
# The date header has a resolution of a second.
DATE_EVERY_S = 1.0
# How long a stream that was cut at the drain timeout may take to hear of it.
CUT_S = 2.0
# How long the connections may take to close once nothing is under way any more, and how often that is looked at.
CLOSE_S = 1.0
CLOSED_EVERY_S = 0.02


class Front:
    """The public listener's two sides: inference, and the ASGI application that serves the rest, whose answers are
    counted.
    """

    def __init__(self, inference: Inference, api: Any, answers: ApiAnswers) -> None:
        self.inference = inference
        self.api = api
        self.answers = answers


class GatewayServer:
    """Serves until SIGTERM or SIGINT, then drains: readiness fails first, open requests finish, new ones get
    503; then it stops listening.

    Args:
        addresses: limits of each client address on the public listener.
    """

    def __init__(
        self,
        config: GatewayConfig,
        public: Front,
        admin: Any,
        inference: Inference,
        addresses: ClientAddresses | None = None,
    ) -> None:
        self._config = config
        self._inference = inference
        self._stop = asyncio.Event()
        limits = ConnectionLimits(
            config.header_timeout_s,
            config.keep_alive_s,
            config.connections_max,
            config.body_max_bytes,
            config.body_timeout_s,
        )
        api = public.api if addresses is None else _WithAddressLimit(public.api, addresses)
        self._public = Listener(
            limits, _WithRequestId(api, public.answers), inference.start, inference_route, addresses
        )
        self._admin = Listener(limits, _WithRequestId(admin))

    @property
    def refused(self) -> Mapping[str, int]:
        """How often connections to the public listener were ended without a request, by the code of the error."""
        return self._public.refused

    async def run(self, notifier: Notifier, *, reuse_port: bool = False) -> None:
        """Serves.

        Args:
            notifier: told when it listens, and when it begins to stop.
            reuse_port: the public address is shared with other workers of this gateway.

        Raises:
            PenstockError: an address can't be listened on.
        """
        sockets = [
            listen(self._config.listen, "gateway.listen", reuse_port=reuse_port),
            listen(self._config.admin, "gateway.admin", reuse_port=reuse_port),
        ]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        listeners = (self._public, self._admin)
        dating = asyncio.create_task(_keep_date(listeners))
        servers = [
            await loop.create_server(listener.connection, sock=sock, backlog=BACKLOG)
            for listener, sock in zip(listeners, sockets, strict=True)
        ]
        notifier.ready()
        await self._stop.wait()
        notifier.stopping()
        await self._inference.drain(self._config.drain_timeout_s, CUT_S)
        for server in servers:
            server.close()
        await asyncio.gather(*map(_close_all, listeners))
        dating.cancel()


async def _keep_date(listeners: tuple[Listener, ...]) -> None:
    while True:
        date = formatdate(time.time(), usegmt=True).encode()
        for listener in listeners:
            listener.set_date(date)
        await asyncio.sleep(DATE_EVERY_S)


async def _close_all(listener: Listener) -> None:
    """Closes the connections, those that are in use when their answer is written, or `CLOSE_S` later."""
    for connection in tuple(listener.connections):
        connection.shutdown()
    deadline_s = time.monotonic() + CLOSE_S
    # ASYNC110 wants an event: not worth its upkeep on every connection, for a wait at the very end
    while (listener.connections or listener.tasks) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(CLOSED_EVERY_S)
    for task in tuple(listener.tasks):
        task.cancel()
    for connection in tuple(listener.connections):
        connection.transport.abort()


def listen(address: Address, path: str, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket; `path` names the setting in a complaint.

    Args:
        reuse_port: other sockets, which ask for it too, may listen there; the kernel shares out connections.

    Raises:
        PenstockError: the address is taken, not ours, or not allowed.
    """
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


class _WithRequestId:
    """An application whose every response carries `x-request-id`, and is counted where somebody counts."""

    def __init__(self, app: Any, answers: ApiAnswers | None = None) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                request_id = request_id_of(scope["headers"])
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
                if self._answers is not None:
                    self._answers.add(scope, request_id, message["status"])
            await send(message)

        await self._app(scope, receive, send_with_id)


class _WithAddressLimit:
    """An application that a client address may ask only so often."""

    def __init__(self, app: Any, addresses: ClientAddresses) -> None:
        self._app = app
        self._addresses = addresses

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        forwarded_for = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        try:
            self._addresses.admit((scope["client"] or ("",))[0], forwarded_for)
        except PenstockError as error:
            body = error_body(error)
            headers = [*error_headers(error), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._app(scope, receive, send)
