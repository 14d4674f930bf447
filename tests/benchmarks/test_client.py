"""The client finds what is wrong with a reply, whoever made it so."""

from __future__ import annotations

import asyncio
import json

import pytest
from benchmarks.gateway import replies
from benchmarks.gateway.client import Load, Seen, run

TOKENS = 3
CONTENT = replies.prompt()
STREAM = (
    replies.ROLE,
    *(replies.token(number, 1, last=number == TOKENS - 1) for number in range(TOKENS)),
    replies.usage(TOKENS),
    replies.DONE,
)


def answered(body: bytes, *, status: bytes = b"200 OK", missing: int = 0, tokens: int = TOKENS) -> Seen:
    """What one request sees of a server that answers with this, the last `missing` bytes of it never sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
        writer.write(body[: len(body) - missing])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def ask() -> Seen:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await run(Load(port, 1, 1, tokens, 10.0))

    return asyncio.run(ask())


def test_a_whole_stream_is_counted() -> None:
    seen = answered(b"".join(STREAM))

    assert (seen.wrong, seen.events, seen.replies, seen.open_peak) == ([], TOKENS, 1, 1)


def test_a_stream_may_come_with_comments_and_written_anew() -> None:
    anew = [
        b"data:" + json.dumps(json.loads(part.removeprefix(b"data: "))).encode() + b"\n\n"
        for part in STREAM
        if part != replies.DONE
    ]

    seen = answered(b": wait\n\n".join([*anew, replies.DONE]))

    assert (seen.wrong, seen.events) == ([], TOKENS)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((*STREAM[:-1],), "no [DONE]"),
        ((*STREAM[:4], STREAM[5]), "no usage event"),
        ((STREAM[0], STREAM[2], *STREAM[3:]), "token 1 where 0 is due"),
        ((*STREAM[:2], STREAM[1], *STREAM[2:]), "token 0 where 1 is due"),
        ((*STREAM[:2], *STREAM[4:]), "1 tokens of 3"),
        ((*STREAM[:4], replies.usage(TOKENS + 1), STREAM[5]), "no usage event"),
        ((*STREAM, STREAM[1]), "token 0 where 3 is due"),
        ((*STREAM, b"data: "), "an event without an end"),
        ((*STREAM[:2], b'data: {"error":{"message":"gone"}}\n\n'), "not an event of the backend"),
    ],
)  # fmt: skip
def test_a_stream_that_is_not_whole_is_wrong(parts: tuple[bytes, ...], why: str) -> None:
    seen = answered(b"".join(parts))

    assert why in seen.wrong[0]


def test_a_stream_that_is_cut_is_wrong() -> None:
    seen = answered(b"".join(STREAM), missing=40)

    assert "the connection was closed" in seen.wrong[0]


def test_a_plain_reply_must_carry_the_checksum_of_the_prompt_that_was_sent() -> None:
    right, wrong = (answered(replies.plain(content), tokens=0) for content in (CONTENT, CONTENT + " "))

    assert (right.wrong, right.replies) == ([], 1)
    assert "another reply" in wrong.wrong[0]


def test_another_status_is_wrong() -> None:
    seen = answered(b'{"error":"busy"}', status=b"503 Service Unavailable", tokens=0)

    assert seen.wrong[0].startswith('status 503: b\'{"error"')


def test_a_server_that_is_not_there_is_wrong() -> None:
    seen = asyncio.run(run(Load(1, 1, 1, 0, 10.0)))

    assert "no connection" in seen.wrong[0]


@pytest.mark.parametrize("interval_s", [0.001, 0.02, 1.0])
def test_the_prompt_tells_the_pace_whatever_its_length(interval_s: float) -> None:
    for prompt_bytes in (0, 50, 51, 200_000):
        content = replies.prompt(prompt_bytes, interval_s)

        assert replies.interval_s(content) == interval_s
        assert not prompt_bytes or len(content.encode()) == max(
            prompt_bytes, len(replies.prompt(0, interval_s))
        )
    assert replies.interval_s("hello") == replies.INTERVAL_S
