"""One request against servers on real sockets: well-behaved, slow, broken and gone."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path

import pytest

from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.sample import Cause, Sample
from tests.bench.under_load import (
    ANSWER,
    CHUNKED,
    DONE,
    answering,
    ask,
    caller_of,
    chunk,
    endpoint_of,
    planned,
    run,
    said,
    self_signed,
    usage,
    whole,
)
from tests.engines.fake_engine import FakeEngine, Peer, Script

SHORT_S = 0.05
HEADERS = (
    b"x-request-id: abc\r\nx-penstock-replica: m/0\r\nserver-timing: queue;dur=1.50, cache;desc=x;dur=2\r\n"
)


def says(*pieces: bytes, resets: bool = False) -> Script:
    """Says `pieces`, then closes the connection, or waits for the client to."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.say(piece)
        if resets:
            await asyncio.sleep(SHORT_S)
            peer.reset()

    return script


def hangs(*pieces: bytes) -> Script:
    """Says `pieces` and nothing more."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.say(piece)
        await peer.hear_end()

    return script


def test_a_whole_answer_is_a_sample_without_a_cause() -> None:
    request = planned(7, kind="short", stage=2, session=3, turn=1, prompt_tokens=3, output_tokens=2)

    sample = run(ask(answering(), request, process=4))

    assert (sample.index, sample.kind, sample.stage, sample.session, sample.turn) == (7, "short", 2, 3, 1)
    assert (sample.process, sample.planned_prompt_tokens, sample.planned_output_tokens) == (4, 3, 2)
    assert (sample.cause, sample.status, sample.completion_tokens) == (Cause.NONE, 200, 2)
    times = [sample.sent_s, sample.first_byte_s, sample.first_token_s, sample.done_s, sample.ended_s]
    assert times == sorted(times, key=lambda time_s: time_s or 0.0)
    assert sample.connect_s is not None


def test_the_gateway_s_headers_are_kept() -> None:
    reply = ANSWER.replace(b"transfer-encoding", HEADERS + b"transfer-encoding")

    sample = run(ask(answering(reply)))

    assert (sample.request_id, sample.replica) == ("abc", "m/0")
    assert sample.server_timing_ms == {"queue": 1.5, "cache": 2.0}


def test_a_second_request_finds_the_connection_open() -> None:
    async def twice() -> list[Sample]:
        async with FakeEngine(answering()) as server:
            caller = caller_of(endpoint_of(server))
            samples = [await caller.call(planned(), 0.0) for _ in range(2)]
            caller.close()
            assert (caller.counts.connections_opened, caller.counts.stale_connections) == (1, 0)
            assert (caller.counts.events, caller.counts.output_tokens) == (8, 4)
            return samples

    assert [sample.connect_s is None for sample in run(twice())] == [False, True]


def test_a_connection_that_the_server_had_closed_is_replaced_and_counted() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(ANSWER)
        await peer.request()  # and closes the connection in place of an answer

    async def twice() -> Sample:
        async with FakeEngine(script) as server:
            caller = caller_of(endpoint_of(server))
            await caller.call(planned(), 0.0)
            sample = await caller.call(planned(), 0.0)
            caller.close()
            assert (caller.counts.connections_opened, caller.counts.stale_connections) == (2, 1)
            return sample

    assert run(twice()).cause is Cause.NONE


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (says(CHUNKED + chunk(said("a")), resets=True), Cause.RESET),
        (says(CHUNKED + chunk(said("a"))), Cause.RESET),
        (says(CHUNKED + chunk(said("a")) + b"0\r\n\r\n"), Cause.INCOMPLETE),
        (says(), Cause.RESET),
        (says(b"SSH-2.0-OpenSSH_9\r\n"), Cause.MALFORMED),
        (says(whole(b'{"error":{"message":"slow down"}}', b"429 Too Many Requests")), Cause.RATE_LIMITED),
        (says(whole(b'{"detail":"Not Found"}', b"404 Not Found")), Cause.CLIENT_ERROR),
        (
            says(whole(b"<html><title>Oh</title></html>", b"502 Bad Gateway", b"text/html")),
            Cause.SERVER_ERROR,
        ),
        (says(whole(b"<html><title>Hi</title></html>", kind=b"text/html")), Cause.MALFORMED),
        (says(whole(b'{"choices":[{"message":{"content":"a"}}]}')), Cause.NOT_STREAMED),
    ],
)
def test_what_a_server_does_wrong_has_its_cause(script: Script, cause: Cause) -> None:
    sample = run(ask(script))

    assert sample.cause is cause
    assert sample.detail
    assert sample.ended_s is not None


@pytest.mark.parametrize(
    ("script", "limits", "cause"),
    [
        (hangs(), {"first_token_s": SHORT_S}, Cause.FIRST_TOKEN_TIMEOUT),
        (hangs(CHUNKED + chunk(said(""))), {"first_token_s": SHORT_S}, Cause.FIRST_TOKEN_TIMEOUT),
        (hangs(CHUNKED + chunk(said("a"))), {"stall_s": SHORT_S}, Cause.STALL_TIMEOUT),
        (hangs(CHUNKED + chunk(said("a"))), {"total_s": SHORT_S}, Cause.TOTAL_TIMEOUT),
    ],
)
def test_each_phase_has_its_limit(script: Script, limits: dict[str, float], cause: Cause) -> None:
    assert run(ask(script, timeouts=Timeouts(**limits))).cause is cause


def test_an_endless_stream_is_ended_by_the_total_limit() -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        while True:
            await peer.say(chunk(said("more")))
            await asyncio.sleep(0.005)

    sample = run(ask(endless, timeouts=Timeouts(total_s=4 * SHORT_S)))

    assert sample.cause is Cause.TOTAL_TIMEOUT
    assert len(sample.chunk_s) > 1


def test_a_server_that_is_down_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def knock() -> Sample:
        return await caller_of(Endpoint(host="127.0.0.1", port=port)).call(planned(), 0.0)

    sample = run(knock())

    assert sample.cause is Cause.CONNECT
    assert "refused" in sample.detail
    assert sample.sent_s is None


def test_a_request_that_finds_no_connection_left_is_our_own_fault() -> None:
    async def one_too_many() -> Sample:
        async with FakeEngine(hangs()) as server:
            caller = caller_of(endpoint_of(server), connections_max=1)
            first = asyncio.create_task(caller.call(planned(), 0.0))
            while not server.peers:
                await asyncio.sleep(0.002)
            sample = await caller.call(planned(), 0.0)
            first.cancel()
            await first
            caller.close()
            assert caller.counts.connections_refused_here == 1
            return sample

    assert run(one_too_many()).cause is Cause.CONNECT


def test_a_client_that_leaves_by_plan_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await hangs(CHUNKED + chunk(said("a")))(peer)
        closed.set()

    async def leave() -> Sample:
        async with FakeEngine(script) as server:
            caller = caller_of(endpoint_of(server))
            sample = await caller.call(planned(cancel_after_s=SHORT_S), 0.0)
            await closed.wait()
            caller.close()
            return sample

    sample = run(leave())

    assert (sample.cause, len(sample.chunk_s)) == (Cause.CANCELLED, 1)


def test_a_client_that_would_leave_later_than_the_end_has_not_left() -> None:
    assert run(ask(answering(), planned(cancel_after_s=60.0))).cause is Cause.NONE


def test_a_call_that_is_cancelled_is_cut_off_and_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await hangs(CHUNKED + chunk(said("a")))(peer)
        closed.set()

    async def cut() -> Sample:
        async with FakeEngine(script) as server:
            caller = caller_of(endpoint_of(server))
            call = asyncio.create_task(caller.call(planned(), 0.0))
            while not caller.counts.output_tokens:
                await asyncio.sleep(0.002)
            call.cancel()
            sample = await call
            await closed.wait()
            caller.close()
            return sample

    assert run(cut()).cause is Cause.CUT_OFF


def test_a_response_that_does_not_end_behind_its_end_mark_is_whole() -> None:
    sample = run(ask(hangs(CHUNKED + chunk(said("a", "stop")) + chunk(usage(1)) + chunk(DONE))))

    assert (sample.cause, sample.completion_tokens) == (Cause.NONE, 1)


def test_a_slow_reader_takes_its_time_and_gets_all() -> None:
    pieces = [chunk(said("x" * 2000)) for _ in range(200)]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        for piece in pieces:
            await peer.say(piece)
        await peer.say(chunk(DONE) + b"0\r\n\r\n")

    begun_s = time.monotonic()
    sample = run(ask(script, planned(read_bytes_per_s=1e6)))

    assert sample.cause is Cause.NONE
    assert len(sample.chunk_s) == 200
    assert time.monotonic() - begun_s > 0.2  # 400 KB at 1 MB/s, less what a last read holds


def test_answers_are_kept_where_that_is_asked_for() -> None:
    assert run(ask(answering(), keep_answers=True)).answer == "ab"
    assert run(ask(answering())).answer == ""


def test_a_certificate_that_nobody_signed_is_a_tls_error_unless_it_is_trusted(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def each() -> list[Sample]:
        samples = []
        async with FakeEngine(answering(), context) as server:
            for trust in ({}, {"insecure": True}, {"ca_file": str(certificate)}):
                caller = caller_of(endpoint_of(server, tls=True, **trust))
                samples.append(await caller.call(planned(), 0.0))
                caller.close()
        return samples

    refused, insecure, trusted = run(each())

    assert (refused.cause, "self-signed" in refused.detail.replace(" ", "-")) == (Cause.TLS, True)
    assert (insecure.cause, trusted.cause) == (Cause.NONE, Cause.NONE)


def test_a_server_without_tls_is_a_tls_error() -> None:
    async def plain(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.hear_end()

    async def speak() -> Sample:
        async with FakeEngine(plain) as server:
            caller = caller_of(endpoint_of(server, tls=True))
            return await caller.call(planned(), 0.0)

    assert run(speak()).cause is Cause.TLS
