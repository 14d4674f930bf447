"""The listener of metrics answers, and is bounded in all that a client can do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from penstock.exporter.listener import CONNECTIONS_MAX, HEAD_BYTES_MAX, Listener

T = TypeVar("T")
PATIENCE_S = 20.0
Talk = Callable[[int], Awaitable[T]]


def serve(talk: Talk[T], page: Callable[[], bytes] = lambda: b"a 1\n") -> T:
    async def work() -> T:
        async with asyncio.timeout(PATIENCE_S):
            listener = Listener(page)
            server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
            try:
                return await talk(server.sockets[0].getsockname()[1])
            finally:
                server.close()
                listener.close()
                while listener.connections:
                    await asyncio.sleep(0.001)

    return asyncio.run(work())


async def ask(port: int, *requests: bytes) -> bytes:
    """What is answered until the listener closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


GET = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def test_a_connection_is_answered_again_and_again() -> None:
    answer = serve(lambda port: ask(port, GET, GET, LAST))

    assert answer.count(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4") == 3
    assert answer.count(b"content-length: 4\r\n\r\na 1\n") == 3


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /health", b"200"),
        (b"GET /metrics?a=b", b"200"),
        (b"GET /", b"404"),
        (b"POST /metrics", b"405"),
    ],
)
def test_a_route_has_its_answer(line: bytes, status: bytes) -> None:
    answer = serve(lambda port: ask(port, line + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))

    assert answer.startswith(b"HTTP/1.1 " + status)


def test_a_head_request_has_no_body() -> None:
    answer = serve(lambda port: ask(port, LAST.replace(b"GET", b"HEAD")))

    assert answer.endswith(b"content-length: 4\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01 not HTTP", b"GET /metrics HTTP/1.1\r\nx: " + b"y" * (HEAD_BYTES_MAX + 1)],
    ids=["garbage", "long"],
)
def test_what_is_no_request_is_refused_and_left(sent: bytes) -> None:
    assert serve(lambda port: ask(port, sent)).startswith(b"HTTP/1.1 400")


def test_one_connection_too_many_is_refused_and_the_others_go_on() -> None:
    async def talk(port: int) -> tuple[bytes, bytes]:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        refused = await ask(port)
        reader, writer = held[0]
        writer.write(LAST)
        answer = await reader.read()
        for _, each in held:
            each.close()
        return refused, answer

    refused, answer = serve(talk)

    assert refused.startswith(b"HTTP/1.1 503")
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_takes_nothing_is_left() -> None:
    async def ask_on(writer: asyncio.StreamWriter) -> None:
        while True:  # and never read
            writer.write(GET * 16)
            await writer.drain()
            await asyncio.sleep(0)

    async def talk(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        with pytest.raises(ConnectionError):
            await ask_on(writer)
        writer.transport.abort()

    serve(talk, page=lambda: b"x" * 2**20)
