"""Engines on real sockets that say what a test tells them to."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from penstock.core.address import Address

Script = Callable[["Peer"], Awaitable[None]]


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

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []

    async def __aenter__(self) -> FakeEngine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
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
