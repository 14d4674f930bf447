"""A loop to run a test in, and engines on real sockets that say what the test tells them to."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from penstock.core.config import Address

# A test that waits longer than this for something has failed; a slow machine takes a tenth of it.
PATIENCE_S = 10.0

Run = Callable[[Coroutine[Any, Any, None]], None]
Script = Callable[["Peer"], Awaitable[None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine; what the loop was told of and nobody handled fails the test, and so does a leak."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    unhandled: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))

        def run_it(work: Coroutine[Any, Any, None]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(PATIENCE_S):
                    await work

            runner.run(bounded())

        yield run_it
    gc.collect()
    assert not unhandled


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]:
    """Waits for a condition; the test's own time limit ends a wait in vain."""

    async def wait(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.002)

    return wait


class Peer:
    """One connection as the engine sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.requests: list[bytes] = []
        self.sent_bytes = 0

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        self.requests.append(head + await self._reader.readexactly(length))
        return self.requests[-1]

    async def say(self, data: bytes) -> None:
        """Sends `data`; returns when the kernel has taken most of it."""
        self._writer.write(data)
        await self._writer.drain()
        self.sent_bytes += len(data)

    async def hear_end(self) -> None:
        """Returns when the client has closed the connection, in whatever way."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def finish(self) -> None:
        """Closes the connection in good order."""
        self._writer.close()

    def reset(self) -> None:
        """Closes the connection by a reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class FakeEngine:
    """A server whose connections follow a script, and are closed behind it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []

    async def __aenter__(self) -> FakeEngine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            # A client that leaves ends the script, as it would an engine's work; so does the end of the test.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._script(peer)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


@pytest.fixture
def engine() -> Callable[[Script], FakeEngine]:
    """Makes an engine that follows a script on each connection: `async with engine(script) as e`."""
    return FakeEngine
