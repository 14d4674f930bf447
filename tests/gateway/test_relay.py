"""An answer on its way to the client: what is passed on, what is kept back, and what ends it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from penstock.core.errors import EngineError, OverloadError
from penstock.core.record import Attempt, RequestRecord
from penstock.core.times import Times
from penstock.engines.exchange import ConnectionLostError, Exchange, Headers, PhaseTimeouts
from penstock.gateway.relay import (
    HELD_BYTES_MAX,
    AnswerDivergedError,
    Comments,
    EngineAbortedError,
    MalformedEventError,
    PlainRelay,
    StreamCutError,
    StreamRelay,
)
from penstock.wire.delivered import RAW_READS_MAX, Answer, Delivered
from penstock.wire.joint import Joint
from penstock.wire.sse import COMMENT, DONE, EVENT_BYTES_MAX, event

PLENTY = PhaseTimeouts(connect_s=60.0, first_byte_s=60.0, stall_s=60.0, total_s=60.0)
HEADERS: Headers = [(b"content-type", b"text/event-stream")]


class Channel:
    """The engine's connection, as far as an exchange knows it."""

    def __init__(self) -> None:
        self.reading = True
        self.aborted = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


class Recorded:
    """The responder's side, remembered."""

    def __init__(self) -> None:
        self.status = 0
        self.head: Headers = []
        self.pieces: list[bytes] = []
        self.started = False
        self.ended = False
        self.closed = False
        self.broken = False
        self.write_paused = False
        self.chunked = True
        self.passed_on_whole = 0
        self.on_write_pause: Callable[[bool], None] | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self.start(status, headers)
        self.write(body)
        self.end()

    def start(self, status: int, headers: Headers) -> None:
        assert not self.started
        self.started, self.status, self.head = True, status, headers

    def write(self, data: bytes) -> None:
        assert self.started
        assert not self.ended
        self.pieces.append(data)

    def write_chunk(self, chunk: bytes, size: int) -> None:
        assert self.chunked
        self.passed_on_whole += 1
        self.write(chunk[-2 - size : -2])

    def end(self, *, close: bool = False) -> None:
        assert not self.ended
        self.ended, self.closed = True, close

    def break_off(self) -> None:
        self.broken = True


class Scene:
    """An exchange whose head has come, a client that waits, and a clock that only the test moves."""

    def __init__(self, status: int = 200) -> None:
        self.channel = Channel()
        self.exchange = Exchange(self.channel, PLENTY, asyncio.get_running_loop())
        self.exchange.on_head(status, [])
        self.answer = Recorded()
        self.record = RequestRecord("req_1", "POST", "/v1/chat/completions", arrived_s=0.0, started_at=0.0)
        self.now_s = 0.0

    def plain(
        self,
        rewrite: Callable[[bytes], bytes] | None = None,
        before_end: Callable[[], None] | None = None,
    ) -> PlainRelay:
        return PlainRelay(
            self.exchange,
            self.answer,  # type: ignore[arg-type]
            self.record,
            HEADERS,
            rewrite=rewrite,
            before_end=before_end or (lambda: None),
            clock=lambda: self.now_s,
        )

    def stream(
        self,
        *,
        hides_usage: bool = False,
        needs_done: bool = True,
        rewrite: Callable[[bytes], bytes] | None = None,
        comment_every_s: float = 60.0,
        clock: Callable[[], float] | None = None,
        before_end: Callable[[], None] | None = None,
        delivered: Delivered | None = None,
        joint: Joint | None = None,
    ) -> StreamRelay:
        clock = clock or (lambda: self.now_s)
        self.comments = Comments(comment_every_s, clock)
        return StreamRelay(
            self.exchange,
            self.answer,  # type: ignore[arg-type]
            self.record,
            HEADERS,
            hides_usage=hides_usage,
            needs_done=needs_done,
            rewrite=rewrite,
            before_end=before_end or (lambda: None),
            comments=self.comments,
            clock=clock,
            delivered=delivered,
            joint=joint,
        )

    def hear(self, piece: bytes) -> None:
        """A read that is one chunk."""
        offer = self.exchange.on_chunk
        if offer is None or not offer(b"%x\r\n%b\r\n" % (len(piece), piece), len(piece)):
            self.exchange.on_data(piece)

    async def play(self, relay: PlainRelay | StreamRelay, *pieces: bytes) -> None:
        """Runs the relay on an answer of these reads; raises what it raises."""
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        for second, piece in enumerate(pieces, start=1):
            self.now_s = float(second)
            self.hear(piece)
        if not self.channel.aborted:
            self.exchange.on_complete()
        await running


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10.0))


def chunk(**members: Any) -> bytes:
    return event(json.dumps({"choices": [{"index": 0, **members}]}).encode())


ROLE = chunk(delta={"role": "assistant", "content": ""})
HELLO = chunk(delta={"content": "hello"})
WORLD = chunk(delta={"content": "world"})
STOP = chunk(delta={}, finish_reason="stop")
ABORT = chunk(delta={"content": ""}, finish_reason="abort")
USAGE = event(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}')


# -- streams -------------------------------------------------------------------------------------------


def test_a_stream_is_passed_on_as_it_came() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(), ROLE, HELLO + WORLD, STOP + USAGE, DONE)

        assert s.answer.body == ROLE + HELLO + WORLD + STOP + USAGE + DONE
        assert (s.answer.status, s.answer.head) == (200, HEADERS)
        assert (s.answer.ended, s.answer.closed) == (True, False)
        assert s.record.events == 2  # those that brought a token

    run(scene())


def test_one_read_is_one_write() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(), ROLE + HELLO, WORLD + STOP + DONE)

        assert s.answer.pieces == [ROLE + HELLO, WORLD + STOP + DONE]

    run(scene())


def test_an_event_in_two_reads_is_passed_on_whole() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(), HELLO[:9], HELLO[9:] + WORLD[:1], WORLD[1:] + DONE[:-1], DONE[-1:])

        assert s.answer.pieces == [HELLO, WORLD, DONE]

    run(scene())


def test_usage_that_the_gateway_asked_for_is_recorded_and_kept_back() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(hides_usage=True), HELLO, STOP + USAGE + DONE)

        assert s.answer.body == HELLO + STOP + DONE
        assert (s.record.usage.prompt_tokens, s.record.usage.completion_tokens) == (3, 2)
        assert s.record.usage.source == "engine"

    run(scene())


def test_usage_that_comes_with_an_ending_is_not_kept_back() -> None:
    last = event(b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}')

    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(hides_usage=True), HELLO, last + DONE)

        assert s.answer.body == HELLO + last + DONE
        assert s.record.usage.completion_tokens == 1

    run(scene())


def test_a_role_is_not_the_first_token() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(), ROLE, HELLO, WORLD + DONE)

        assert (s.record.first_byte_s, s.record.first_token_s, s.record.last_token_s) == (1.0, 2.0, 3.0)

    run(scene())


@pytest.mark.parametrize("tail", [b"", HELLO[:-1], b"data: [DONE]"])
def test_a_stream_without_its_end_mark_is_cut(tail: bytes) -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream()
        with pytest.raises(StreamCutError):
            await s.play(relay, ROLE, HELLO, STOP, tail)

        assert relay.committed
        assert not s.answer.ended

    run(scene())


def test_a_stream_of_another_api_needs_no_end_mark_but_whole_events() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.stream(needs_done=False), event(b'{"type":"response.completed"}'))
        assert s.answer.ended

        other = Scene()
        with pytest.raises(StreamCutError):
            await other.play(other.stream(needs_done=False), event(b"{}"), b"data: {")

    run(scene())


def test_an_answer_in_which_the_model_writes_the_end_mark_is_not_done() -> None:
    async def scene() -> None:
        s = Scene()
        with pytest.raises(StreamCutError):
            await s.play(s.stream(), HELLO, chunk(delta={"content": "data: [DONE]\n\n"}))

    run(scene())


@pytest.mark.parametrize("reads", [(HELLO, ABORT + DONE), (HELLO + ABORT, DONE), (HELLO, ABORT, DONE)])
def test_an_abort_ends_the_stream_before_it_looks_finished(reads: tuple[bytes, ...]) -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream()
        with pytest.raises(EngineAbortedError) as caught:
            await s.play(relay, *reads)
        relay.fail(caught.value)

        assert s.channel.aborted
        assert s.answer.pieces[0] == HELLO
        assert json.loads(s.answer.pieces[-1].removeprefix(b"data: "))["error"]["code"] == "engine_aborted"
        assert b"[DONE]" not in s.answer.body
        assert s.answer.closed

    run(scene())


def test_an_abort_before_anything_was_sent_leaves_room_for_another_attempt() -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream()
        with pytest.raises(EngineAbortedError):
            await s.play(relay, ABORT)

        assert not relay.committed
        assert not s.answer.started

    run(scene())


def test_a_lost_engine_is_told_with_one_error_event_and_no_end_mark() -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream()
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        s.exchange.on_data(HELLO)
        s.exchange.fail(ConnectionLostError("gone"))
        with pytest.raises(ConnectionLostError) as caught:
            await running
        relay.fail(caught.value)

        assert s.answer.pieces[0] == HELLO
        assert json.loads(s.answer.pieces[1].removeprefix(b"data: "))["error"]["message"] == "gone"
        assert len(s.answer.pieces) == 2
        assert s.answer.closed

    run(scene())


def test_what_an_engine_complains_of_amid_a_stream_is_told_and_never_looks_finished() -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream()
        with pytest.raises(EngineAbortedError) as caught:
            await s.play(relay, HELLO, event(b'{"error":{"message":"out of blocks"}}') + DONE)
        relay.fail(caught.value)

        assert "out of blocks" in json.loads(s.answer.pieces[-1].removeprefix(b"data: "))["error"]["message"]
        assert b"[DONE]" not in s.answer.body

    run(scene())


def test_an_engine_that_hangs_up_after_its_end_mark_has_finished() -> None:
    async def scene() -> None:
        s = Scene()
        running = asyncio.create_task(s.stream().run())
        await asyncio.sleep(0)
        s.exchange.on_data(HELLO + DONE)
        s.exchange.fail(ConnectionLostError("gone"))
        await running

        assert s.answer.body == HELLO + DONE
        assert (s.answer.ended, s.answer.closed) == (True, False)

    run(scene())


def test_a_reply_that_is_rewritten_is_held_up_to_a_limit() -> None:
    async def scene() -> None:
        s = Scene()
        with pytest.raises(EngineError) as caught:
            await s.play(s.plain(rewrite=bytes), *[b"x" * 1024 * 1024] * 17)

        assert caught.value.code == "engine_malformed_response"

    run(scene())


def test_an_event_without_end_is_the_engines_fault_and_is_not_held() -> None:
    async def scene() -> None:
        s = Scene()
        with pytest.raises(EngineError) as caught:
            await s.play(s.stream(), HELLO, *[b"x" * 65536] * (EVENT_BYTES_MAX // 65536 + 1))

        assert caught.value.code == "engine_malformed_response"
        assert s.channel.aborted

    run(scene())


def test_silence_is_filled_with_comments_that_commit_to_nothing() -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream(comment_every_s=0.005, clock=time.monotonic)
        running = asyncio.create_task(relay.run())
        while len(s.answer.pieces) < 2:
            await asyncio.sleep(0.001)
        assert s.answer.body == COMMENT * len(s.answer.pieces)
        assert not relay.committed

        s.answer.write_paused = True
        count = len(s.answer.pieces)
        await asyncio.sleep(0.03)
        assert len(s.answer.pieces) == count
        s.exchange.on_data(HELLO + DONE)
        s.exchange.on_complete()
        await running
        assert s.answer.pieces[-1] == HELLO + DONE
        assert s.record.events == 1

    run(scene())


def test_a_client_that_reads_slowly_holds_back_the_engine() -> None:
    async def scene() -> None:
        for make in (Scene.plain, Scene.stream):
            s = Scene()
            running = asyncio.create_task(make(s).run())
            await asyncio.sleep(0)
            assert s.answer.on_write_pause is not None
            s.answer.on_write_pause(True)
            assert not s.channel.reading
            s.answer.on_write_pause(False)
            assert s.channel.reading

            s.exchange.on_data(DONE)
            s.exchange.on_complete()
            await running

    run(scene())


def test_each_event_is_rewritten_and_may_be_left_out() -> None:
    async def scene() -> None:
        s = Scene()
        rewritten = {ROLE: b"", HELLO: event(b"1"), DONE: DONE}
        await s.play(s.stream(rewrite=rewritten.__getitem__), ROLE, HELLO + ROLE, DONE)

        assert s.answer.pieces == [event(b"1"), DONE]

    run(scene())


# -- plain replies -------------------------------------------------------------------------------------


def test_a_plain_reply_is_held_until_it_is_whole() -> None:
    async def scene() -> None:
        s = Scene()
        body = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
        relay = s.plain()
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        s.exchange.on_data(body[:20])
        s.exchange.on_data(body[20:])
        assert not relay.committed
        assert not s.answer.started
        s.exchange.on_complete()
        await running

        assert s.answer.pieces == [body]
        assert s.answer.ended
        assert (s.record.usage.prompt_tokens, s.record.usage.completion_tokens) == (3, 2)

    run(scene())


def test_a_plain_reply_that_breaks_off_has_not_begun() -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.plain()
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        s.exchange.on_data(b'{"cho')
        s.exchange.fail(ConnectionLostError("gone"))
        with pytest.raises(ConnectionLostError):
            await running

        assert not relay.committed
        assert not s.answer.started

    run(scene())


def test_a_reply_of_exactly_the_limit_is_held_and_one_byte_more_is_streamed() -> None:
    async def scene() -> None:
        s = Scene()
        await s.play(s.plain(), b"x" * HELD_BYTES_MAX)
        assert s.answer.pieces == [b"x" * HELD_BYTES_MAX]

        other = Scene()
        await other.play(other.plain(), b"x" * HELD_BYTES_MAX, b"y", b"z")
        assert other.answer.pieces == [b"x" * HELD_BYTES_MAX + b"y", b"z"]
        assert other.answer.ended
        assert other.record.first_byte_s == 2.0

    run(scene())


def test_a_large_reply_that_breaks_off_is_broken_off() -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.plain()
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        s.exchange.on_data(b"x" * (HELD_BYTES_MAX + 1))
        s.exchange.fail(ConnectionLostError("gone"))
        with pytest.raises(ConnectionLostError) as caught:
            await running
        assert relay.committed
        relay.fail(caught.value)

        assert s.answer.broken
        assert not s.answer.ended

    run(scene())


def test_only_a_successful_reply_is_rewritten() -> None:
    async def scene() -> None:
        for status, body in ((200, b"ABC"), (404, b"abc")):
            s = Scene(status)
            await s.play(s.plain(rewrite=bytes.upper), b"a", b"bc")

            assert (s.answer.status, s.answer.body) == (status, body)

    run(scene())


# -- before the end ------------------------------------------------------------------------------------


class Ledger:
    """Remembers what the client had when it was told of the end; refuses it where it can't be written."""

    def __init__(self, answer: Recorded, *, works: bool = True) -> None:
        self.answer = answer
        self.works = works
        self.seen: list[bytes] = []

    def __call__(self) -> None:
        self.seen.append(self.answer.body)
        if not self.works:
            raise OverloadError("no room", code="journal_failed")


@pytest.mark.parametrize("reads", [(ROLE, HELLO, STOP + USAGE + DONE), (ROLE + HELLO + STOP + USAGE + DONE,)])
def test_the_end_of_a_stream_is_told_before_the_client_sees_it(reads: tuple[bytes, ...]) -> None:
    async def scene() -> None:
        s = Scene()
        ledger = Ledger(s.answer)
        await s.play(s.stream(before_end=ledger), *reads)

        assert len(ledger.seen) == 1
        assert b"[DONE]" not in ledger.seen[0]
        assert s.record.usage.completion_tokens == 2
        assert s.answer.body.endswith(DONE)

    run(scene())


@pytest.mark.parametrize("reads", [(ROLE, HELLO, STOP, DONE), (ROLE + HELLO + STOP + DONE,)])
def test_a_stream_whose_end_may_not_be_shown_does_not_look_finished(reads: tuple[bytes, ...]) -> None:
    async def scene() -> None:
        s = Scene()
        relay = s.stream(before_end=Ledger(s.answer, works=False))
        with pytest.raises(OverloadError):
            await s.play(relay, *reads)

        assert relay.committed
        assert s.answer.body == ROLE + HELLO + STOP
        assert not s.answer.ended

    run(scene())


def test_the_end_of_a_stream_without_an_end_mark_is_told_too() -> None:
    async def scene() -> None:
        s = Scene()
        ledger = Ledger(s.answer)
        await s.play(s.stream(needs_done=False, before_end=ledger), event(b'{"type":"x"}'))

        assert len(ledger.seen) == 1
        assert s.answer.ended

    run(scene())


@pytest.mark.parametrize("size", [3, HELD_BYTES_MAX + 1])
def test_the_end_of_a_plain_reply_is_told_before_the_client_sees_it(size: int) -> None:
    async def scene() -> None:
        s = Scene()
        ledger = Ledger(s.answer)
        await s.play(s.plain(before_end=ledger), b"x" * size)
        assert len(ledger.seen) == 1
        assert s.answer.ended

        other = Scene()
        with pytest.raises(OverloadError):
            await other.play(other.plain(before_end=Ledger(other.answer, works=False)), b"x" * size)
        assert not other.answer.ended

    run(scene())


# -- gaps ----------------------------------------------------------------------------------------------

MANY = [chunk(delta={"content": f" {number}"}, finish_reason=None) for number in range(30)]


def found(s: Scene) -> tuple[int, float]:
    """How many gaps were counted, and their sum."""
    assert s.record.gaps is not None
    return sum(s.record.gaps.counts), s.record.gaps.sum_s


def measured() -> Scene:
    s = Scene()
    s.record.gaps = Times((0.5, 1.0))
    return s


@pytest.mark.parametrize("chunked", [True, False])
def test_the_gaps_of_a_measured_stream_are_those_between_its_tokens(chunked: bool) -> None:
    async def scene() -> None:
        s = measured()
        s.answer.chunked = chunked
        await s.play(s.stream(delivered=Delivered()), ROLE, *MANY, STOP + USAGE + DONE)

        assert s.answer.body == ROLE + b"".join(MANY) + STOP + USAGE + DONE
        assert s.record.gaps is not None
        assert s.record.gaps.counts == [0, 29, 0]  # each a second
        assert s.record.gaps.sum_s == 29.0
        assert s.answer.passed_on_whole >= 20 if chunked else s.answer.passed_on_whole == 0

    run(scene())


def test_tokens_that_come_at_once_have_no_time_between_them() -> None:
    async def scene() -> None:
        s = measured()
        await s.play(s.stream(), ROLE + HELLO + WORLD, HELLO + WORLD + HELLO, WORLD + STOP + DONE)

        assert s.record.gaps is not None
        assert s.record.gaps.counts == [3, 2, 0]
        assert s.record.gaps.sum_s == 2.0

    run(scene())


def test_the_gaps_of_an_answer_that_is_rewritten_are_counted_as_well() -> None:
    async def scene() -> None:
        s = measured()
        await s.play(s.stream(rewrite=bytes.upper, delivered=Delivered()), ROLE, HELLO, WORLD, STOP + DONE)

        assert found(s) == (1, 1.0)

    run(scene())


def test_a_gap_in_which_the_client_did_not_read_is_none_nor_is_what_piled_up_in_it() -> None:
    async def scene() -> None:
        s = measured()
        relay = s.stream(delivered=Delivered())
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        hold = s.answer.on_write_pause
        assert hold is not None
        for now_s, piece in enumerate(MANY[:12]):
            s.now_s = float(now_s)
            s.hear(piece)
        assert found(s) == (11, 11.0)

        hold(True)
        s.now_s = 100.0
        hold(False)
        s.hear(b"".join(MANY[12:20]))
        assert found(s) == (11, 11.0)

        s.now_s = 101.0
        s.hear(MANY[20])
        hold(True)
        hold(False)
        s.now_s = 102.0
        s.hear(MANY[21])
        s.now_s = 103.0
        s.hear(MANY[22])
        assert found(s) == (13, 13.0)
        s.exchange.on_data(DONE)
        s.exchange.on_complete()
        await running

    run(scene())


def test_the_gap_over_a_change_of_engines_counts() -> None:
    async def scene() -> None:
        s = measured()
        first = s.stream(delivered=Delivered())
        with pytest.raises(StreamCutError):
            await s.play(first, ROLE, chunk(delta={"content": "hel"}, finish_reason=None))
        s.exchange = Exchange(s.channel, PLENTY, asyncio.get_running_loop())
        s.exchange.on_head(200, [])
        rest = s.stream(joint=Joint(SO_FAR, repeats="hel", kept_tokens=0))
        running = asyncio.create_task(rest.run())
        await asyncio.sleep(0)
        for now_s, piece in ((7.0, ROLE + HELLO), (7.25, chunk(delta={"content": "!"})), (8.0, STOP + DONE)):
            s.now_s = now_s
            s.hear(piece)
        s.exchange.on_complete()
        await running

        assert s.record.gaps is not None
        assert s.record.gaps.counts == [1, 0, 1]
        assert s.record.gaps.sum_s == 5.25

    run(scene())


def test_a_stream_that_is_not_measured_goes_the_way_without() -> None:
    async def scene() -> None:
        for s, way in ((Scene(), "_on_chunk"), (measured(), "_on_measured_chunk")):
            relay = s.stream(delivered=Delivered())
            running = asyncio.create_task(relay.run())
            await asyncio.sleep(0)
            s.hear(MANY[0])
            assert s.exchange.on_chunk == getattr(relay, way)
            s.exchange.on_data(DONE)
            s.exchange.on_complete()
            await running

    run(scene())


# -- continuing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrite", [None, bytes.upper])
def test_what_the_client_has_is_remembered_as_the_engine_said_it(
    rewrite: Callable[[bytes], bytes] | None,
) -> None:
    async def scene() -> None:
        s = Scene()
        delivered = Delivered()
        many = [chunk(delta={"content": f" {number}"}, finish_reason=None) for number in range(200)]
        relay = s.stream(rewrite=rewrite, delivered=delivered)
        with pytest.raises(StreamCutError):
            await s.play(relay, ROLE + many[0], *many[1:], HELLO[:-1])

        assert delivered.answer().text == "".join(f" {number}" for number in range(200))
        assert delivered.answer().role

    run(scene())


@pytest.mark.parametrize("chunked", [True, False])
def test_a_client_without_chunks_gets_events_without_their_framing(chunked: bool) -> None:
    async def scene() -> None:
        s = Scene()
        s.answer.chunked = chunked
        delivered = Delivered()
        many = [chunk(delta={"content": f" {number}"}, finish_reason=None) for number in range(30)]
        await s.play(s.stream(delivered=delivered), ROLE, *many, STOP + DONE)

        assert s.answer.body == ROLE + b"".join(many) + STOP + DONE
        assert s.record.events == 30
        assert s.record.last_token_s == 31.0
        assert delivered.answer().tokens == 30
        assert s.answer.passed_on_whole >= 20 if chunked else s.answer.passed_on_whole == 0

    run(scene())


def test_what_can_not_be_continued_is_not_remembered_for_long() -> None:
    async def scene() -> None:
        s = Scene()
        delivered = Delivered()
        thoughts = [chunk(delta={"reasoning_content": " so"}, finish_reason=None)] * 200
        await s.play(s.stream(delivered=delivered), ROLE, *thoughts, DONE)

        assert delivered.obstacle == "reasoning_content"
        assert len(delivered.raw) <= RAW_READS_MAX

    run(scene())


@pytest.mark.parametrize(
    "reads", [(HELLO, HELLO[:-9] + b"\n\n", WORLD), (HELLO, HELLO[:-9] + b"\n\n" + WORLD)]
)
def test_an_event_that_is_not_json_is_the_end_and_is_not_shown(reads: tuple[bytes, ...]) -> None:
    async def scene() -> None:
        s = Scene()
        with pytest.raises(MalformedEventError):
            await s.play(s.stream(), *reads)

        assert s.answer.body == HELLO
        assert s.channel.aborted

    run(scene())


SO_FAR = Answer("hel", 1, ("hel",), "c-1", 7, role=True, finish_reason=None, obstacle="")


def test_the_rest_of_an_answer_looks_like_more_of_it() -> None:
    async def scene() -> None:
        s = Scene()
        last = event(b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}')
        relay = s.stream(joint=Joint(SO_FAR, repeats="hel", kept_tokens=0))
        await s.play(relay, ROLE + chunk(delta={"content": "hello"}), STOP + last + DONE)

        chunks = [json.loads(line[6:]) for line in s.answer.body.split(b"\n") if line.startswith(b"data: {")]
        assert [one["choices"][0]["delta"] for one in chunks[:-1]] == [{"content": "lo"}, {}]
        assert s.record.usage.completion_tokens == 4
        assert s.answer.ended

    run(scene())


@pytest.mark.parametrize("reads", [(chunk(delta={"content": "other"}), STOP + DONE), (DONE,)])
def test_an_engine_that_goes_another_way_is_stopped_before_it_is_heard(reads: tuple[bytes, ...]) -> None:
    async def scene() -> None:
        s = Scene()
        with pytest.raises(AnswerDivergedError):
            await s.play(s.stream(joint=Joint(SO_FAR, repeats="hel")), *reads)

        assert s.answer.body == b""
        assert s.channel.aborted

    run(scene())


# -- headers -------------------------------------------------------------------------------------------


def test_the_head_tells_which_replica_answered_and_where_the_time_went() -> None:
    async def scene() -> None:
        s = Scene()
        s.record.authenticated_s, s.record.lined_up_s, s.record.admitted_s = 0.001, 0.002, 0.102
        s.record.attempts.append(Attempt("m-1", "only_one", started_s=0.2, connected_s=0.203))
        await s.play(s.stream(), ROLE, HELLO + DONE)

        timing = b"auth;dur=1.00, queue;dur=100.00, connect;dur=3.00, first_token;dur=1000.00"
        assert s.answer.head == [*HEADERS, (b"x-penstock-replica", b"m-1"), (b"server-timing", timing)]

    run(scene())
