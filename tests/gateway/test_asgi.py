"""Applications are answered for over real sockets: sizes, pauses, what they leave undone, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock.gateway.protocol import ConnectionLimits, Listener

App = Callable[[Any, Any, Any], Any]
LIMITS = ConnectionLimits(5.0, 5.0, 10, 1000, 5.0)


@asynccontextmanager
async def connected(app: App, limits: ConnectionLimits = LIMITS) -> AsyncIterator[tuple[Any, Any, Listener]]:
    """A client's two ends of a connection to `app`."""
    listener = Listener(limits, app)
    server = await asyncio.get_running_loop().create_server(listener.connection, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer, listener
    finally:
        writer.close()
        server.close()


def answering(*bodies: bytes, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> App:
    """An application that sends these pieces, whatever it is asked."""

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return app


async def asked(app: App, request: bytes, limits: ConnectionLimits = LIMITS) -> bytes:
    """All that comes back before the connection closes, without the date."""
    async with asyncio.timeout(10), connected(app, limits) as (reader, writer, _):
        writer.write(request)
        reply: bytes = await reader.read()
    return b"\r\n".join(line for line in reply.split(b"\r\n") if not line.startswith(b"date: "))


GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
CLOSED = b"HTTP/1.1 200 OK\r\n%bconnection: close\r\n\r\n%b"


@pytest.mark.parametrize(
    ("request_", "app", "reply"),
    [
        pytest.param(
            *(GET, answering(b"ab", b"cde")),
            CLOSED % (b"transfer-encoding: chunked\r\n", b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"),
            id="chunked",
        ),
        pytest.param(
            *(GET, answering(b"ab", b"c", headers=((b"Content-Length", b"3"),))),
            CLOSED % (b"content-length: 3\r\n", b"abc"),
            id="sized",
        ),
        pytest.param(
            *(HEAD, answering(b"abc", headers=((b"content-length", b"3"),))),
            CLOSED % (b"content-length: 3\r\n", b""),
            id="head",
        ),
        pytest.param(HEAD, answering(b"abc"), CLOSED % (b"", b""), id="head of unknown size"),
        pytest.param(
            *(GET, answering(status=204)),
            b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            id="no content",
        ),
        pytest.param(
            *(b"GET / HTTP/1.0\r\n\r\n", answering(b"abc")),
            CLOSED % (b"", b"abc"),
            id="a client that knows no chunks",
        ),
    ],
)
def test_an_answer_is_framed_as_its_size_and_the_request_ask(request_: bytes, app: App, reply: bytes) -> None:
    async def scenario() -> None:
        assert await asked(app, request_) == reply

    asyncio.run(scenario())


def test_a_body_comes_whole_and_then_the_application_waits_for_the_client_to_leave() -> None:
    async def scenario() -> None:
        received: list[Any] = []

        async def app(_scope: Any, receive: Any, send: Any) -> None:
            received.append(await receive())
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            received.append(await receive())

        async with asyncio.timeout(10), connected(app) as (reader, writer, listener):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            for piece in (b"abc", b"def"):
                writer.write(piece)
                await writer.drain()
            await reader.readuntil(b"1\r\nx\r\n")
            writer.close()
            await asyncio.gather(*listener.tasks)

        assert received == [
            {"type": "http.request", "body": b"abcdef", "more_body": False},
            {"type": "http.disconnect"},
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_", "limits", "status"),
    [
        (
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"transfer-encoding: chunked\r\n\r\n3e9\r\n%b\r\n0\r\n\r\n" % (b"a" * 1001),
            LIMITS,
            413,
        ),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n", LIMITS, 413),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc",
            ConnectionLimits(5.0, 5.0, 10, 1000, 0.05),
            408,
        ),
    ],
)
def test_a_body_is_bounded_in_size_and_time(request_: bytes, limits: ConnectionLimits, status: int) -> None:
    async def scenario() -> None:
        reply = await asked(answering(b"never"), request_, limits)

        assert reply.startswith(b"HTTP/1.1 %d " % status)
        assert b"x-request-id: " in reply

    asyncio.run(scenario())


def test_an_application_that_fails_is_an_error_before_its_head_and_a_cut_answer_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async def fails(_scope: Any, _receive: Any, _send: Any) -> None:
            raise ValueError("boom")

        async def fails_late(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            raise ValueError("boom")

        assert (await asked(fails, GET)).startswith(b"HTTP/1.1 500 ")
        assert (await asked(fails_late, GET)).endswith(b"1\r\nx\r\n")  # and no last chunk
        assert [record.getMessage() for record in caplog.records] == ["GET / failed", "GET / failed"]

    asyncio.run(scenario())


def test_an_application_writes_no_faster_than_its_client_reads_and_ends_when_it_leaves() -> None:
    async def scenario() -> None:
        sent = 0

        async def app(_scope: Any, _receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200})
            while True:
                await send({"type": "http.response.body", "body": bytes(64 * 1024), "more_body": True})
                sent += 1

        async with asyncio.timeout(10), connected(app) as (_, writer, listener):
            writer.write(GET)
            before = -1
            while sent != before or not sent:  # until it stands still
                before = sent
                await asyncio.sleep(0.05)
            assert sent < 1000
            writer.transport.abort()
            await asyncio.gather(*listener.tasks)

    asyncio.run(scenario())


def test_a_client_that_leaves_amid_its_body_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(10), connected(answering(b"never")) as (_, writer, listener):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
            while not listener.tasks:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            writer.transport.abort()
            await asyncio.gather(*listener.tasks, return_exceptions=True)
        assert not listener.tasks

    asyncio.run(scenario())
