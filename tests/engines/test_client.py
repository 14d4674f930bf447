"""The HTTP client against engines on real sockets: well-behaved, slow, broken and gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from penstock.core.config import Address
from penstock.core.errors import DeadlineError, OverloadError, Phase
from penstock.engines.client import (
    FETCH_BYTES_MAX,
    KEEPALIVE_AFTER_S,
    KEEPALIVE_EVERY_S,
    UNACKNOWLEDGED_S,
    ConnectRefusedError,
    Dialling,
    EngineClient,
)
from penstock.engines.exchange import (
    UNREAD_BYTES_MAX,
    ConnectionLostError,
    Exchange,
    MalformedResponseError,
    PhaseTimeouts,
)

PLENTY_S = 60.0
SHORT_S = 0.05
# asyncio and uvloop read at most this much at once.
READ_BYTES_MAX = 256 * 1024
PLENTY = PhaseTimeouts(connect_s=PLENTY_S, first_byte_s=PLENTY_S, stall_s=PLENTY_S, total_s=PLENTY_S)


def limits(**phases: float | None) -> PhaseTimeouts:
    return PhaseTimeouts(
        **{"connect_s": PLENTY_S, "first_byte_s": None, "stall_s": None, "total_s": PLENTY_S, **phases}
    )  # type: ignore[arg-type]


def reply(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"%b\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def closing(client: EngineClient) -> AsyncIterator[EngineClient]:
    """Closes the client, and sees that none of its connections stays open."""
    pools = client._pools
    try:
        yield client
    finally:
        client.close()
        async with asyncio.timeout(2.0):
            while any(pool.open_count for pool in pools.values()):
                await asyncio.sleep(0.002)


async def ask(client: EngineClient, address: Address, timeouts: PhaseTimeouts = PLENTY) -> Exchange:
    return await client.open(address, b"POST", b"/v1/x", [(b"x-a", b"1")], b"{}", timeouts)


async def get(client: EngineClient, address: Address) -> bytes:
    return (await client.fetch(address, b"GET", b"/health", timeout_s=PLENTY_S)).body


def answering(*replies: bytes, closes: bool = False) -> Any:
    """A script: one of `replies` to each request on a connection, then the end of the connection."""

    async def script(peer: Any) -> None:
        for data in replies:
            await peer.request()
            await peer.say(data)
        if not closes:
            await peer.hear_end()

    return script


# -- the ordinary way ----------------------------------------------------------------------------------


def test_a_request_is_sent_as_it_was_given_with_host_and_length(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"hello"))) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            body = await exchange.read(100)

            assert (exchange.status, body) == (200, b"hello")
            assert exchange.headers == [(b"content-length", b"5")]
            assert e.peers[0].requests == [
                b"POST /v1/x HTTP/1.1\r\nhost: %b\r\nx-a: 1\r\ncontent-length: 2\r\n\r\n{}"
                % str(e.address).encode()
            ]

    run(scene())


def test_a_get_has_no_length_and_a_post_without_a_body_has_one(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(answering(*[reply(b"")] * 2)) as e, closing(EngineClient()) as client:
            await client.fetch(e.address, b"GET", b"/", timeout_s=PLENTY_S)
            await client.fetch(e.address, b"POST", b"/", timeout_s=PLENTY_S)

            get_head, post_head = e.peers[0].requests
            assert b"content-length" not in get_head
            assert b"content-length: 0\r\n" in post_head

    run(scene())


def test_a_connection_is_kept_and_used_again(run: Any, engine: Any) -> None:
    async def scene() -> None:
        replies = [reply(b"%d" % i) for i in range(3)]
        async with engine(answering(*replies)) as e, closing(EngineClient()) as client:
            bodies = [await get(client, e.address) for _ in range(3)]

            assert bodies == [b"0", b"1", b"2"]
            assert len(e.peers) == 1
            assert client.connections(e.address) == (1, 1)

    run(scene())


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nconnection: close", b"HTTP/1.0 200 OK"], ids=["close", "http10"]
)
def test_a_connection_that_may_not_be_kept_is_closed(run: Any, engine: Any, until: Any, head: bytes) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"x", head))) as e, closing(EngineClient()) as client:
            assert await get(client, e.address) == b"x"

            await until(lambda: client.connections(e.address) == (0, 0))

    run(scene())


def test_a_body_without_a_length_ends_with_its_connection(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        data = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it"
        async with engine(answering(data, closes=True)) as e, closing(EngineClient()) as client:
            assert await get(client, e.address) == b"all of it"

            await until(lambda: client.connections(e.address) == (0, 0))

    run(scene())


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_status_without_a_body_is_whole_with_its_head(run: Any, engine: Any, status: bytes) -> None:
    async def scene() -> None:
        head = b"HTTP/1.1 %b\r\n\r\n" % status
        async with engine(answering(head, reply(b"next"))) as e, closing(EngineClient()) as client:
            assert await get(client, e.address) == b""
            assert await get(client, e.address) == b"next"
            assert len(e.peers) == 1

    run(scene())


def test_interim_responses_are_skipped(run: Any, engine: Any) -> None:
    async def scene() -> None:
        hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
        script = answering(hints + reply(b"a"), reply(b"b"))
        async with engine(script) as e, closing(EngineClient()) as client:
            first = await client.fetch(e.address, b"GET", b"/", timeout_s=PLENTY_S)

            assert (first.status, first.body, first.headers) == (200, b"a", [(b"content-length", b"1")])
            assert await get(client, e.address) == b"b"

    run(scene())


def test_a_stream_arrives_piece_by_piece(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        heard = asyncio.Event()

        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(CHUNKED + chunk(b"a"))
            await heard.wait()
            await peer.say(chunk(b"b") + b"0\r\n\r\n")
            await peer.hear_end()

        async with engine(script) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            parts: list[bytes] = []
            exchange.receive(parts.append)
            await until(lambda: parts == [b"a"])
            heard.set()
            await exchange.end()

            assert parts == [b"a", b"b"]
            assert client.connections(e.address) == (1, 1)

    run(scene())


def test_many_requests_at_once_each_get_their_own_answer(run: Any, engine: Any) -> None:
    async def script(peer: Any) -> None:
        while True:
            request = await peer.request()
            await peer.say(reply(request.split(b" ")[1]))

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            for _ in range(3):
                replies = await asyncio.gather(
                    *(client.fetch(e.address, b"GET", b"/%d" % i, timeout_s=PLENTY_S) for i in range(50))
                )
                assert [reply.body for reply in replies] == [b"/%d" % i for i in range(50)]

            assert len(e.peers) == 50

    run(scene())


# -- engines that fail ---------------------------------------------------------------------------------


def test_a_stale_connection_is_replaced_without_notice(run: Any, engine: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(reply(b"x"))
        await peer.request()  # and is gone as it comes, as when a keep-alive timeout races with a request

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            assert await get(client, e.address) == b"x"
            assert await get(client, e.address) == b"x"
            assert [len(peer.requests) for peer in e.peers] == [2, 1]

    run(scene())


def test_a_connection_that_was_closed_while_idle_leaves_the_pool(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"x"), closes=True)) as e, closing(EngineClient()) as client:
            await get(client, e.address)
            await until(lambda: client.connections(e.address) == (0, 0))

            assert await get(client, e.address) == b"x"

    run(scene())


def test_a_fresh_connection_that_is_lost_is_not_tried_again(run: Any, engine: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            with pytest.raises(ConnectionLostError):
                await ask(client, e.address)

            assert len(e.peers) == 1

    run(scene())


def test_a_reused_connection_that_fails_amid_its_answer_is_not_tried_again(run: Any, engine: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(reply(b"x"))
        await peer.request()
        await peer.say(b"HTTP/1.1 200")

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            await get(client, e.address)

            with pytest.raises(ConnectionLostError):
                await get(client, e.address)

            assert len(e.peers) == 1

    run(scene())


def test_an_engine_that_closes_each_connection_at_once_is_an_engine_that_failed(
    run: Any, engine: Any
) -> None:
    async def script(peer: Any) -> None:
        peer.reset()

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            for _ in range(50):
                with pytest.raises((ConnectionLostError, ConnectRefusedError)):
                    await ask(client, e.address)

    run(scene())


def test_a_connection_is_lost_where_nothing_is_acknowledged_and_one_that_idles_is_asked(
    run: Any, engine: Any
) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"one"))) as e, closing(EngineClient()) as client:
            await get(client, e.address)
            (connection,) = client._pools[e.address].idle
            assert connection._transport is not None
            option = connection._transport.get_extra_info("socket").getsockopt

            assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_AFTER_S
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == KEEPALIVE_EVERY_S
            assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED_S * 1000

    run(scene())


def test_nothing_listens_is_said_at_once(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(answering()) as e:
            address = e.address
        async with closing(EngineClient()) as client:
            with pytest.raises(ConnectRefusedError, match=str(address)):
                await ask(client, address)

            assert client.connections(address) == (0, 0)

    run(scene())


def test_a_host_without_an_address_is_unreachable(run: Any) -> None:
    async def scene() -> None:
        async with closing(EngineClient()) as client:
            with pytest.raises(ConnectRefusedError):
                await ask(client, Address("no-such-host.invalid", 1))

    run(scene())


@pytest.mark.parametrize("ending", ["finish", "reset"])
@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", CHUNKED, CHUNKED + chunk(b"part"), CHUNKED + b"5\r\nab",
             b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart"],
    ids=["nothing", "half a head", "a head", "a chunk", "half a chunk", "half a body"],
)  # fmt: skip
def test_a_connection_that_ends_too_soon_is_lost(run: Any, engine: Any, said: bytes, ending: str) -> None:
    async def scene() -> None:
        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(said)
            getattr(peer, ending)()

        async with engine(script) as e, closing(EngineClient()) as client:
            with pytest.raises(ConnectionLostError):
                await (await ask(client, e.address)).read(1000)

    run(scene())


def test_a_reset_amid_a_body_without_a_length_is_not_its_end(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        heard = asyncio.Event()

        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\n\r\npart")
            await heard.wait()
            peer.reset()

        async with engine(script) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            parts: list[bytes] = []
            exchange.receive(parts.append)
            await until(lambda: parts == [b"part"])
            heard.set()

            with pytest.raises(ConnectionLostError):
                await exchange.end()

    run(scene())


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 2_000_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
    ],
    ids=[
        "ssh",
        "status",
        "length",
        "two lengths",
        "chunk size",
        "upgrade",
        "endless head",
        "endless interim",
    ],
)
def test_what_is_not_http_is_said_so_and_closed(run: Any, engine: Any, said: bytes) -> None:
    async def scene() -> None:
        async with engine(answering(said)) as e, closing(EngineClient()) as client:
            with pytest.raises(MalformedResponseError):
                await (await ask(client, e.address)).read(1000)

    run(scene())


def test_an_idle_connection_that_talks_is_closed(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        heard = asyncio.Event()

        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(reply(b"x"))
            await heard.wait()
            await peer.say(reply(b"meant for another"))
            await peer.hear_end()

        async with engine(script) as e, closing(EngineClient()) as client:
            await get(client, e.address)
            heard.set()

            await until(lambda: client.connections(e.address) == (0, 0))

    run(scene())


def test_a_small_answer_that_is_not_small_is_refused(run: Any, engine: Any) -> None:
    async def scene() -> None:
        script = answering(reply(b"x" * (FETCH_BYTES_MAX + 1)))
        async with engine(script) as e, closing(EngineClient()) as client:
            with pytest.raises(MalformedResponseError, match="larger than"):
                await get(client, e.address)

    run(scene())


# -- time ----------------------------------------------------------------------------------------------


def test_a_connection_that_does_not_open_is_a_connect_timeout(run: Any) -> None:
    async def scene() -> None:
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        waiting = []
        for _ in range(16):  # fills the queue of those to be accepted
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            waiting.append(sock)
        address = Address(*full.getsockname())
        try:
            async with closing(EngineClient()) as client:
                with pytest.raises(DeadlineError) as caught:
                    await ask(client, address, limits(connect_s=SHORT_S))

                assert caught.value.phase is Phase.CONNECT
                assert client.connections(address) == (0, 0)
        finally:
            for sock in [full, *waiting]:
                sock.close()

    run(scene())


@pytest.mark.parametrize(
    ("said", "timeouts", "phase"),
    [
        (b"", limits(first_byte_s=SHORT_S), Phase.FIRST_TOKEN),
        (CHUNKED, limits(first_byte_s=SHORT_S), Phase.FIRST_TOKEN),
        (CHUNKED + chunk(b"x"), limits(first_byte_s=PLENTY_S, stall_s=SHORT_S), Phase.STALL),
        (b"", limits(total_s=SHORT_S), Phase.TOTAL),
        (CHUNKED + chunk(b"x"), limits(total_s=SHORT_S), Phase.TOTAL),
        (CHUNKED + chunk(b"x"), limits(stall_s=PLENTY_S, total_s=SHORT_S), Phase.TOTAL),
        (b"", limits(total_s=0.0), Phase.TOTAL),
    ],
)
def test_silence_ends_an_exchange_and_names_the_phase(
    run: Any, engine: Any, said: bytes, timeouts: PhaseTimeouts, phase: Phase
) -> None:
    async def scene() -> None:
        left = asyncio.Event()

        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(said)
            await peer.hear_end()
            left.set()

        async with engine(script) as e, closing(EngineClient()) as client:
            with pytest.raises(DeadlineError) as caught:
                await (await ask(client, e.address, timeouts)).read(1000)

            assert caught.value.phase is phase
            if timeouts.total_s:  # else the request may not have left
                await left.wait()

    run(scene())


def test_a_steady_stream_outlives_the_stall_limit(run: Any, engine: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        for _ in range(60):
            await peer.say(chunk(b"x"))
            await asyncio.sleep(0.01)
        await peer.say(b"0\r\n\r\n")

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address, limits(first_byte_s=0.5, stall_s=0.5))

            assert await exchange.read(1000) == b"x" * 60

    run(scene())


def test_a_drop_every_now_and_then_does_not_outlive_the_total_limit(run: Any, engine: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        while True:
            await peer.say(chunk(b"x"))
            await asyncio.sleep(0.005)

    async def scene() -> None:
        async with engine(script) as e, closing(EngineClient()) as client:
            with pytest.raises(DeadlineError) as caught:
                await (await ask(client, e.address, limits(stall_s=PLENTY_S, total_s=0.1))).read(100_000)

            assert caught.value.phase is Phase.TOTAL

    run(scene())


# -- back-pressure -------------------------------------------------------------------------------------

LONG_BYTES = 64 * 1024 * 1024


async def long_answer(peer: Any) -> None:
    """Far more than the kernel and the client will hold."""
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LONG_BYTES)
    for _ in range(LONG_BYTES // 65536):
        await peer.say(b"x" * 65536)
    await peer.hear_end()


async def stuck(peer: Any) -> None:
    """Returns when the peer has sent nothing more for a while."""
    sent_bytes = -1
    while sent_bytes != peer.sent_bytes:
        sent_bytes = peer.sent_bytes
        await asyncio.sleep(0.1)


def test_a_body_that_nobody_reads_holds_back_the_engine(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(long_answer) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            await stuck(e.peers[0])
            assert e.peers[0].sent_bytes < LONG_BYTES
            assert sum(map(len, exchange._unread)) <= UNREAD_BYTES_MAX + READ_BYTES_MAX

            received = 0

            def count(data: bytes) -> None:
                nonlocal received
                received += len(data)

            exchange.receive(count)
            await exchange.end()
            assert received == LONG_BYTES

    run(scene())


def test_a_paused_consumer_gets_no_more_until_it_goes_on(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(long_answer) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address, limits(stall_s=0.05))
            received = 0

            def count(data: bytes) -> None:
                nonlocal received
                if received < 1_000_000 <= received + len(data):
                    exchange.pause()
                received += len(data)

            exchange.receive(count)
            await stuck(e.peers[0])  # longer than the stall limit, which is not the engine's fault
            held = received
            assert held < LONG_BYTES
            await stuck(e.peers[0])
            assert received == held

            exchange.resume()
            await exchange.end()
            assert received == LONG_BYTES

    run(scene())


def test_a_paused_exchange_still_ends_at_its_total_limit(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(long_answer) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address, limits(stall_s=PLENTY_S, total_s=0.3))
            exchange.receive(lambda _: exchange.pause())

            with pytest.raises(DeadlineError) as caught:
                await exchange.end()

            assert caught.value.phase is Phase.TOTAL

    run(scene())


# -- leaving -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [CHUNKED, CHUNKED + chunk(b"x")])
def test_a_cancelled_exchange_closes_its_connection(run: Any, engine: Any, said: bytes) -> None:
    async def scene() -> None:
        left = asyncio.Event()

        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(said)
            await peer.hear_end()
            left.set()

        async with engine(script) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            exchange.cancel()
            await left.wait()

            with pytest.raises(ConnectionLostError) as caught:
                await exchange.end()
            assert caught.value.code == "cancelled"
            assert client.connections(e.address) == (0, 0)

    run(scene())


def test_a_cancel_after_the_end_keeps_the_connection(run: Any, engine: Any) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"a"), reply(b"b"))) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            await exchange.read(10)
            exchange.cancel()

            assert await get(client, e.address) == b"b"
            assert len(e.peers) == 1

    run(scene())


def test_a_task_that_is_cancelled_while_it_waits_closes_the_connection(
    run: Any, engine: Any, until: Any
) -> None:
    async def scene() -> None:
        left = asyncio.Event()

        async def script(peer: Any) -> None:
            await peer.request()
            await peer.hear_end()
            left.set()

        async with engine(script) as e, closing(EngineClient()) as client:
            task = asyncio.create_task(ask(client, e.address))
            await until(lambda: e.peers and e.peers[0].requests)
            task.cancel()
            await left.wait()

            assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError
            await until(lambda: client.connections(e.address) == (0, 0))

    run(scene())


def test_a_task_cancelled_at_any_moment_leaves_the_count_right(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        async with engine(answering(CHUNKED)) as e, closing(EngineClient()) as client:
            for turns in range(40):
                task = asyncio.create_task(ask(client, e.address))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                for outcome in await asyncio.gather(task, return_exceptions=True):
                    if isinstance(outcome, Exchange):
                        outcome.cancel()
                await until(lambda: client.connections(e.address) == (0, 0))

    run(scene())


def test_no_more_connections_are_opened_than_allowed(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        async with engine(answering(CHUNKED)) as e, closing(EngineClient(connections_max=3)) as client:
            exchanges = [await ask(client, e.address) for _ in range(3)]

            with pytest.raises(OverloadError) as caught:
                await ask(client, e.address)
            assert caught.value.retry_after_s == 1
            for exchange in exchanges:
                exchange.cancel()
            await until(lambda: client.connections(e.address) == (0, 0))
            (await ask(client, e.address)).cancel()

    run(scene())


def test_no_more_connections_are_kept_than_allowed(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"x"))) as e, closing(EngineClient(idle_max=2)) as client:
            await asyncio.gather(*(get(client, e.address) for _ in range(6)))

            await until(lambda: client.connections(e.address) == (2, 2))

    run(scene())


def test_an_engine_that_is_forgotten_gets_its_connections_closed(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        go_on = asyncio.Event()
        left = asyncio.Semaphore(0)

        async def script(peer: Any) -> None:
            await peer.request()
            if peer is e.peers[0]:
                await go_on.wait()
            await peer.say(reply(b"x"))
            await peer.hear_end()
            left.release()

        async with engine(script) as e, closing(EngineClient()) as client:
            busy = asyncio.create_task(get(client, e.address))
            await until(lambda: e.peers and e.peers[0].requests)
            await get(client, e.address)
            client.forget(e.address)
            await left.acquire()  # the idle one

            go_on.set()
            assert await busy == b"x"
            await left.acquire()  # and the other as soon as it is done
            client.forget(e.address)
            assert client.connections(e.address) == (0, 0)

    run(scene())


def test_a_closed_client_keeps_nothing(run: Any, engine: Any, until: Any) -> None:
    async def scene() -> None:
        async with engine(answering(reply(b"x"))) as e, closing(EngineClient()) as client:
            exchange = await ask(client, e.address)
            client.close()
            assert await exchange.read(10) == b"x"

            await until(lambda: client.connections(e.address) == (0, 0))

    run(scene())


def test_an_address_is_dialled_at_its_hosts_in_turn_and_still_asked_for_by_its_name(
    run: Any, engine: Any
) -> None:
    async def main() -> None:
        async with engine(answering(reply(b"a"))) as server, closing(EngineClient(idle_max=0)) as client:
            named = Address("engine.invalid", server.address.port)
            client.reach(named, Dialling(hosts=("127.0.0.1", "127.0.0.2")))

            with suppress(ConnectRefusedError):  # the second host, where nobody listens
                await get(client, named)
            with suppress(ConnectRefusedError):
                await get(client, named)

            assert [
                b"host: engine.invalid:" in request for peer in server.peers for request in peer.requests
            ] == [True]

    run(main())


def test_a_watcher_hears_of_the_sending_and_of_the_head_before_the_body(run: Any, engine: Any) -> None:
    heard: list[object] = []

    class Ear:
        def on_send(self, exchange: Exchange, reused: bool) -> None:
            heard.append(("send", reused))

        def on_head(self, exchange: Exchange) -> None:
            heard.append(("head", exchange.status))
            exchange.receive(heard.append)

    async def main() -> None:
        replies = answering(reply(b"abc"), reply(b"def"))
        async with engine(replies) as server, closing(EngineClient()) as client:
            for _ in range(2):
                exchange = await client.open(server.address, b"GET", b"/", [], b"", PLENTY, Ear())
                await exchange.end()

    run(main())

    assert heard == [("send", False), ("head", 200), b"abc", ("send", True), ("head", 200), b"def"]


def test_a_watcher_hears_twice_of_a_request_that_was_sent_again(run: Any, engine: Any) -> None:
    sent: list[bool] = []

    class Ear:
        def on_send(self, exchange: Exchange, reused: bool) -> None:
            sent.append(reused)

        def on_head(self, exchange: Exchange) -> None:
            pass

    async def main() -> None:
        async def script(peer: Any) -> None:
            await peer.request()
            await peer.say(reply(b"abc"))
            await peer.request()

        async with engine(script) as server, closing(EngineClient()) as client:
            for _ in range(2):
                exchange = await client.open(server.address, b"GET", b"/", [], b"", PLENTY, Ear())
                await exchange.read(100)

    run(main())

    assert sent == [False, True, False]
