"""The connection's parser side, byte for byte, without a socket; and what an exchange makes of it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import EngineError
from penstock.engines.alarm import Alarm
from penstock.engines.connection import HEAD_BYTES_MAX, EngineConnection
from penstock.engines.exchange import (
    UNREAD_BYTES_MAX,
    ConnectionLostError,
    Exchange,
    MalformedResponseError,
    PhaseTimeouts,
)

PLENTY = PhaseTimeouts(connect_s=60.0, first_byte_s=60.0, stall_s=60.0, total_s=60.0)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.aborted = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Line:
    """One connection with an exchange on it, and all that was told of them."""

    def __init__(self) -> None:
        self.freed: list[EngineConnection] = []
        self.lost: list[EngineConnection] = []
        self.parts: list[bytes] = []
        self.wire = Wire()
        self.connection = EngineConnection(self.freed.append, self.lost.append)
        self.connection.connection_made(self.wire)
        self.exchange = self.ask()

    def ask(self) -> Exchange:
        exchange = Exchange(self.connection, PLENTY, asyncio.get_running_loop())
        self.connection.send(exchange, b"GET / HTTP/1.1\r\n\r\n")
        return exchange

    def hear(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)


async def error_of(exchange: Exchange) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await exchange.end()
    return caught.value


def test_an_exchange_that_is_over_does_not_move_the_alarm_of_the_next(run: Any) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        line = Line()
        alarm = Alarm(loop)
        over = Exchange(line.connection, PLENTY, loop, alarm)
        over.on_head(200, [])
        over.on_complete()
        short = PhaseTimeouts(connect_s=1.0, first_byte_s=0.02, stall_s=1.0, total_s=1.0)
        following = Exchange(line.connection, short, loop, alarm)
        over.expect_first_token()

        assert (await error_of(following)).code == "first_token_timeout"

    run(scene())


EVENTS = [b"data: %d%b\n\n" % (n, b"x" * n) for n in range(60)]


@given(
    style=st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=1"]),
    cuts=st.lists(st.integers(1, 4000), max_size=30),
    takes=st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_chunks_that_are_passed_on_with_their_framing_leave_the_others_as_they_are(
    style: bytes, cuts: list[int], takes: list[bool]
) -> None:
    chunks = [(style + b"\r\n%b\r\n") % (len(event), event) for event in EVENTS]
    ends = {sum(map(len, chunks[:n])) for n in range(1, len(chunks))}
    stream = b"".join(chunks) + b"0\r\n\r\n"
    places = [0, *sorted({*(cut for cut in cuts if cut < len(stream)), *ends}), len(stream)]

    async def scene() -> None:
        line = Line()
        turn = itertools.cycle(takes)

        def take(chunk: bytes, size: int) -> bool:
            if next(turn):
                line.parts.append(chunk[-2 - size : -2])
                return True
            return False

        line.exchange.receive(line.parts.append)
        line.exchange.on_chunk = take
        line.hear(CHUNKED, *(stream[begin:end] for begin, end in itertools.pairwise(places)))
        await line.exchange.end()

        assert b"".join(line.parts) == b"".join(EVENTS)
        assert line.freed == [line.connection]

    asyncio.run(scene())


@pytest.mark.parametrize(
    "read",
    [b"6\r\nhello\r\n", b"+5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"5\r\nhello\n\n", b" 5\r\nhello\r\n"],
)
def test_what_only_looks_like_a_chunk_is_not_passed_on(run: Any, read: bytes) -> None:
    async def scene() -> None:
        line = Line()
        line.exchange.receive(line.parts.append)
        line.exchange.on_chunk = lambda _chunk, _size: pytest.fail("passed on")
        line.hear(CHUNKED, b"2\r\nab\r\n", read)

    run(scene())


RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6;x=1\r\n world\r\n0\r\n\r\n", b"hello world"),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "none": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
}


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_is_the_same_wherever_it_is_split(run: Any, kind: str) -> None:
    response, body = RESPONSES[kind]

    async def scene() -> None:
        splits = [[response[:cut], response[cut:]] for cut in range(1, len(response))]
        splits.append([response[i : i + 1] for i in range(len(response))])
        splits.append([response])
        for pieces in splits:
            line = Line()
            line.exchange.receive(line.parts.append)
            line.hear(*pieces)
            await line.exchange.end()

            assert b"".join(line.parts) == body
            assert line.exchange.status == (204 if kind == "none" else 200)
            assert [name for name, _ in line.exchange.headers] == [
                name for name in (b"content-length", b"transfer-encoding") if name in response.lower()
            ]
            assert line.freed == [line.connection]
            assert line.connection.usable

    run(scene())


def test_chunks_that_come_in_one_read_are_one_piece(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.exchange.receive(line.parts.append)

        line.hear(CHUNKED + b"2\r\nab\r\n2\r\ncd\r\n", b"2\r\nef\r\n0\r\n\r\n")

        assert line.parts == [b"abcd", b"ef"]
        await line.exchange.end()

    run(scene())


def test_the_next_response_on_a_connection_knows_nothing_of_the_last(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(RESPONSES["chunks"][0])
        second = line.ask()

        line.hear(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx")

        assert (second.status, second.headers) == (404, [(b"content-length", b"1")])
        assert line.exchange.headers == [(b"transfer-encoding", b"chunked")]
        assert await second.read(10) == b"x"
        assert (await line.exchange.read(100)) == b"hello world"

    run(scene())


def test_a_body_that_waited_is_handed_over_in_order(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n")
        line.exchange.receive(line.parts.append)
        line.hear(b"1\r\nc\r\n0\r\n\r\n")

        assert line.parts == [b"a", b"b", b"c"]
        await line.exchange.end()

    run(scene())


def test_a_consumer_that_pauses_amid_what_waited_stays_paused(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(CHUNKED, b"%x\r\n%b\r\n" % (UNREAD_BYTES_MAX + 1, b"x" * (UNREAD_BYTES_MAX + 1)))
        assert not line.wire.reading

        line.exchange.receive(lambda _: line.exchange.pause())

        assert not line.wire.reading
        line.exchange.resume()
        assert line.wire.reading
        line.exchange.cancel()

    run(scene())


def test_a_failed_exchange_hands_over_nothing_more(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n")

        def refuse(data: bytes) -> None:
            line.parts.append(data)
            line.exchange.fail(EngineError("no more", code="refused"))

        line.exchange.receive(refuse)
        line.hear(b"1\r\nc\r\n0\r\n\r\n")

        assert line.parts == [b"a"]
        assert (await error_of(line.exchange)).code == "refused"
        assert line.wire.aborted
        assert not line.connection.usable

    run(scene())


def test_the_first_error_is_the_one_that_is_told(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.exchange.fail(EngineError("first", code="first"))
        line.connection.connection_lost(OSError("second"))
        line.exchange.cancel()

        assert (await error_of(line.exchange)).code == "first"
        with pytest.raises(EngineError, match="first"):
            await line.exchange.head()

    run(scene())


def test_a_lost_connection_tells_both_sides_once(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.connection.connection_lost(ConnectionResetError("reset by peer"))

        error = await error_of(line.exchange)
        assert isinstance(error, ConnectionLostError)
        assert "reset by peer" in error.message
        assert line.lost == [line.connection]
        assert not line.connection.usable
        line.connection.close()
        line.connection.abort()
        line.connection.pause_reading()
        line.connection.resume_reading()

    run(scene())


def test_more_than_the_response_is_no_response(run: Any) -> None:
    async def scene() -> None:
        line = Line()

        line.hear(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n")

        assert isinstance(await error_of(line.exchange), MalformedResponseError)
        assert line.wire.aborted
        assert line.freed == []

    run(scene())


def test_a_head_in_pieces_is_refused_at_the_limit(run: Any) -> None:
    async def scene() -> None:
        line = Line()

        line.hear(b"HTTP/1.1 200 OK\r\n", *[b"x-a: %b\r\n" % (b"a" * 1000)] * (HEAD_BYTES_MAX // 1000 + 1))

        assert "head is too large" in (await error_of(line.exchange)).message
        assert line.wire.aborted

    run(scene())


def test_each_head_has_the_whole_limit_to_itself(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        field = b"x-a: %b\r\n" % (b"a" * (HEAD_BYTES_MAX * 2 // 3))
        for exchange in (line.exchange, None):
            exchange = exchange or line.ask()
            line.hear(b"HTTP/1.1 204 No Content\r\n", field, b"\r\n")

            await exchange.end()
        assert line.freed == [line.connection] * 2

    run(scene())


def test_a_connection_goes_to_the_next_request_with_its_reading_on(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        body = b"x" * (UNREAD_BYTES_MAX + 1)

        line.hear(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        assert line.wire.reading
        assert line.freed == [line.connection]
        assert await line.exchange.read(len(body)) == body

    run(scene())


class Clock(asyncio.AbstractEventLoop):
    """A loop that keeps no more than time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle in self.timers:  # else it is being run
            self.timers.remove(handle)

    def call_at(self, when: float, callback: Any, *args: Any, **_: Any) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self)
        self.timers.append(timer)
        return timer

    def go_to(self, now_s: float) -> None:
        self.now_s = now_s
        for timer in [timer for timer in self.timers if timer.when() <= now_s]:
            self.timers.remove(timer)
            timer._run()  # type: ignore[attr-defined]


def test_an_exchange_has_one_timer_while_it_lasts_and_none_after() -> None:
    clock = Clock()
    limits = PhaseTimeouts(connect_s=1.0, first_byte_s=30.0, stall_s=10.0, total_s=100.0)
    exchange = Exchange(EngineConnection(id, id), limits, clock)
    assert [timer.when() for timer in clock.timers] == [30.0]

    clock.now_s = 5.0
    exchange.on_head(200, [])
    exchange.on_data(b"a")
    assert [timer.when() for timer in clock.timers] == [15.0]
    clock.now_s = 14.0
    exchange.on_data(b"b")
    clock.go_to(15.0)
    assert [timer.when() for timer in clock.timers] == [24.0]
    exchange.on_complete()

    assert clock.timers == []


def test_a_stall_is_told_with_how_long_it_was() -> None:
    clock = Clock()
    limits = PhaseTimeouts(connect_s=1.0, first_byte_s=30.0, stall_s=10.0, total_s=100.0)
    exchange = Exchange(EngineConnection(id, id), limits, clock)
    clock.now_s = 5.0
    exchange.on_head(200, [])
    exchange.on_data(b"a")

    clock.go_to(15.0)

    assert clock.timers == []
    with pytest.raises(EngineError, match=r"stall limit passed after 10 s"):
        asyncio.run(exchange.end())


def test_an_end_of_the_connection_ends_a_body_without_a_length_only(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(b"HTTP/1.1 200 OK\r\n\r\npart")
        line.connection.eof_received()
        assert await line.exchange.read(10) == b"part"
        assert line.wire.closed
        assert line.freed == []

        other = Line()
        other.hear(CHUNKED, b"1\r\na\r\n")
        other.connection.eof_received()
        assert not other.exchange.complete
        other.connection.connection_lost(None)
        assert isinstance(await error_of(other.exchange), ConnectionLostError)

    run(scene())


def test_a_whole_response_can_be_paused_and_resumed_without_harm(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(RESPONSES["length"][0])
        line.ask().cancel()
        line.wire.reading = True

        line.exchange.pause()
        line.exchange.resume()
        line.exchange.cancel()

        assert line.wire.reading
        assert await line.exchange.read(10) == b"hello"

    run(scene())


def test_a_body_over_the_readers_limit_is_refused(run: Any) -> None:
    async def scene() -> None:
        line = Line()
        line.hear(RESPONSES["length"][0][:-1])

        with pytest.raises(MalformedResponseError, match="larger than 3 bytes"):
            await line.exchange.read(3)

        assert line.wire.aborted

    run(scene())
