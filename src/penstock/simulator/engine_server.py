"""The simulated engine as a process: listens, serves vLLM's API, and stops when it is told to.

Shutting down: the listener closes; idle connections close; running replies have `shutdown_timeout_s` to
finish; what is left then ends with finish_reason "abort".
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable

import uvloop

from penstock.simulator.http_connection import Connection
from penstock.simulator.routes import Routes
from penstock.simulator.settings import SimEngineSettings

__all__ = ["SimEngine", "SimEngineSettings", "run", "serve"]

_BACKLOG = 4096
_LAST_WRITES_S = 0.5


class SimEngine:
    """A listening simulated engine, in the running loop.

    Args:
        settings: checked ones.
    """

    def __init__(self, settings: SimEngineSettings) -> None:
        self.routes = Routes(settings, self._refuse)
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = settings.port

    async def start(self) -> None:
        """Begins to listen; `port` is then the real one.

        Raises:
            OSError: the port can't be had.
        """
        await self._listen()
        self._sweep()

    async def stop(self) -> None:
        """Stops as told above; returns when no connection is left."""
        self.routes.draining = True
        self._close_listener()
        for connection in list(self.routes.connections):
            connection.close_when_done()
        await self._until_gone(self._settings.shutdown_timeout_s)
        self.routes.engine.stop()
        await self._until_gone(_LAST_WRITES_S)
        for connection in list(self.routes.connections):
            connection.abandon()

    async def _listen(self) -> None:
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((settings.host, self.port))
            self._server = await self._loop.create_server(self._accept, sock=sock, backlog=_BACKLOG)
        except BaseException:
            sock.close()
            raise
        self.port = sock.getsockname()[1]

    def _accept(self) -> Connection:
        return Connection(self.routes, self._loop)

    def _close_listener(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def _refuse(self, seconds: float) -> None:
        """Closes the listener for a while, and the connections that wait for a request."""
        self._close_listener()
        for connection in list(self.routes.connections):
            connection.close_if_idle()
        self._reopening = self._loop.call_later(seconds, self._reopen)

    def _reopen(self) -> None:
        self._reopening = None
        task = self._loop.create_task(self._listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _sweep(self) -> None:
        """Closes connections that have been idle too long, now and again."""
        idle_s = self._settings.keep_alive_s
        for connection in list(self.routes.connections):
            connection.close_if_idle(idle_s)
        if not self.routes.draining:
            self._loop.call_later(min(1.0, idle_s / 2), self._sweep)

    async def _until_gone(self, seconds: float) -> None:
        if self.routes.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.routes.gone.wait(), seconds)


def run(settings: SimEngineSettings, *, ready: Callable[[int], None] | None = None) -> None:
    """Runs `serve` to its end on uvloop, which it needs to reach its speed."""
    uvloop.run(serve(settings, ready=ready))


async def serve(settings: SimEngineSettings, *, ready: Callable[[int], None] | None = None) -> None:
    """Runs a simulated engine until SIGTERM or SIGINT.

    Args:
        settings: what to serve, and how.
        ready: told the port as soon as connections are accepted.

    Raises:
        ValueError: `settings.check()` complains.
        OSError: the port can't be had.
    """
    complaints = settings.check()
    if complaints:
        raise ValueError("; ".join(complaints))
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        if await _told_within(told, settings.load_s):
            return
        engine = SimEngine(settings)
        await engine.start()
        if ready is not None:
            ready(engine.port)
        await told.wait()
        await engine.stop()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _told_within(told: asyncio.Event, seconds: float) -> bool:
    if not seconds:
        return False
    try:
        await asyncio.wait_for(told.wait(), seconds)
    except TimeoutError:
        return False
    return True
