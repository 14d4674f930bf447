"""One answer for many clients: each gets every byte, at its own pace, and none costs memory without bound."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import Timeouts
from penstock.core.errors import ClientError, EngineError, PenstockError
from penstock.core.record import RequestRecord
from penstock.engines.exchange import Headers
from penstock.gateway.broadcast import (
    PIECE_BYTES,
    WINDOW_BYTES,
    AnswerTooLargeError,
    Broadcast,
)
from penstock.gateway.reader import WHOLE_BYTES_MAX, Reader
from penstock.store.answers import Answer
from penstock.wire.sse import COMMENT, DONE, event

STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-penstock-replica", b"m-0"),
    (b"server-timing", b"auth;dur=1"),
    (b"x-ratelimit-limit-requests", b"5"),
    (b"x-request-id", b"req_first"),
]
JSON: Headers = [(b"content-type", b"application/json"), (b"x-request-id", b"req_first")]
ONE, TWO = event(b'{"id":"1"}'), event(b'{"id":"2"}')


class Client:
    """A responder whose client takes `room` bytes before it asks for a pause."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.status = 0
        self.head: Headers = []
        self.body = b""
        self.started = self.ended = self.closed = self.broken = self.gone = False
        self.write_paused = False
        self.on_disconnect: Callable[[], object] | None = None
        self.on_write_pause: Callable[[bool], None] | None = None
        self.on_failure: Callable[[PenstockError], None] | None = None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        self.body = body
        self.end()

    def start(self, status: int, headers: Headers) -> None:
        assert not self.started
        self.started, self.status, self.head = True, status, headers

    def write(self, data: bytes) -> None:
        assert self.started
        assert not self.ended
        assert data
        self.body += data
        self.room -= len(data)
        if self.room <= 0 and not self.write_paused:
            self.write_paused = True
            if self.on_write_pause is not None:
                self.on_write_pause(True)

    def take(self, room: float = float("inf")) -> None:
        """The client can take more."""
        self.room, self.write_paused = room, False
        if self.on_write_pause is not None:
            self.on_write_pause(False)

    def end(self, *, close: bool = False) -> None:
        assert self.started
        assert not self.ended
        self.ended, self.closed = True, close

    def break_off(self) -> None:
        self.ended = self.broken = True

    def fail(self, error: PenstockError) -> None:
        assert self.on_failure is not None
        self.on_failure(error)


@dataclass
class Asked:
    """A call, as far as a reader knows it."""

    responder: Client = field(default_factory=Client)
    stream: bool = True
    record: RequestRecord = field(
        default_factory=lambda: RequestRecord("req_mine", "POST", "/v1/chat/completions", 0.0, 0.0)
    )
    deadline_s: float = 600.0
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def request(self) -> Asked:
        return self


def join(source: Broadcast, asked: Asked | None = None, after: int = 0) -> Reader:
    reader = Reader(source, asked or Asked(), after, lambda: 1.0)  # type: ignore[arg-type]
    source.attach(reader)
    return reader


def client_of(reader: Reader) -> Client:
    return reader.call.responder  # type: ignore[return-value]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10.0))


# -- streams -------------------------------------------------------------------------------------------


def test_each_client_gets_every_event_with_its_number_whenever_it_comes() -> None:
    async def scene() -> None:
        source = Broadcast()
        early = join(source)
        source.start(200, STREAM)
        source.write(ONE)
        between = join(source)
        source.write(TWO + DONE)
        source.end()
        late = join(source)

        for reader in (early, between, late):
            assert client_of(reader).body == b"id: 1\n" + ONE + b"id: 2\n" + TWO + b"id: 3\n" + DONE
            assert client_of(reader).ended
            assert not client_of(reader).closed
            assert reader.done.done()

    run(scene())


def test_the_owner_has_the_head_as_it_is_and_others_what_belongs_to_the_answer() -> None:
    async def scene() -> None:
        source = Broadcast()
        owner, other = join(source), join(source)
        assert source.elect() is owner
        source.start(200, STREAM)

        assert client_of(owner).head == STREAM
        assert client_of(other).head == [
            STREAM[0],
            STREAM[1],
            (b"x-request-id", b"req_mine"),
            (b"idempotent-replayed", b"true"),
        ]
        assert not owner.call.record.replayed
        assert other.call.record.replayed
        assert other.call.record.status == 200
        assert other.call.record.first_byte_s == 1.0

    run(scene())


@pytest.mark.parametrize("after", [0, 1, 9, 10, 11, 99, 100])
def test_a_client_goes_on_behind_the_event_that_it_has(after: int) -> None:
    async def scene() -> None:
        live, played = Broadcast(), Broadcast()
        whole = join(live)
        live.start(200, STREAM)
        for number in range(99):
            live.write(event(b'{"n":%d}' % number))
        going_on = join(live, after=min(after, 99))
        live.write(DONE)
        live.end()
        answer = live.answer()
        assert answer is not None

        played.play(answer)
        again = join(played, after=after)

        all_of_it = client_of(whole).body
        rest = all_of_it[all_of_it.index(b"id: %d\n" % (after + 1)) :] if after < 100 else b""
        assert client_of(again).body == rest
        assert client_of(again).ended
        if after <= 99:
            assert client_of(going_on).body == rest

    run(scene())


@pytest.mark.parametrize("after", [3, 10, 999_999_999])
def test_an_event_that_never_was_is_refused(after: int) -> None:
    async def scene() -> None:
        source = Broadcast()
        source.start(200, STREAM)
        source.write(ONE + TWO)

        reader = join(source, after=after)

        with pytest.raises(ClientError) as caught:
            reader.done.result()
        assert (caught.value.status, caught.value.code) == (400, "invalid_last_event_id")
        assert not client_of(reader).started

    run(scene())


def test_comments_go_to_those_who_wait_and_are_not_kept() -> None:
    async def scene() -> None:
        source = Broadcast()
        there, behind = join(source), join(source, Asked(Client(room=1)))
        source.start(200, STREAM)
        source.write(ONE + TWO)
        source.write(TWO)
        source.write(COMMENT)
        late = join(source)

        assert client_of(there).body.endswith(TWO + COMMENT)
        assert COMMENT not in client_of(behind).body
        client_of(behind).take()
        assert client_of(behind).body == client_of(late).body
        assert COMMENT not in client_of(late).body

    run(scene())


def test_numbers_of_the_engine_give_way_to_ours() -> None:
    async def scene() -> None:
        source = Broadcast()
        reader = join(source)
        source.start(200, STREAM)

        source.write(b"id: 77\ndata: a\n\n: ping\n\nevent: x\r\nid:78\r\ndata: b\r\n\r\ndata: id\nid\n\n")

        assert client_of(reader).body == (
            b"id: 1\ndata: a\n\nid: 2\nevent: x\r\ndata: b\r\n\r\nid: 3\ndata: id\n\n"
        )

    run(scene())


EVENTS = st.lists(
    st.sampled_from([ONE, TWO, COMMENT, b"event: e\r\ndata: 1\r\n\r\n", b"data: a\ndata: id: 4\n\n", DONE])
)


@given(writes=st.lists(EVENTS.map(b"".join).filter(bool), max_size=12), data=st.data())
def test_whatever_a_client_has_seen_the_rest_makes_it_whole(writes: list[bytes], data: st.DataObject) -> None:
    async def scene() -> None:
        source = Broadcast()
        whole = join(source)
        source.start(200, STREAM)
        for write in writes:
            source.write(write)
        source.end()
        text = client_of(whole).body.replace(COMMENT, b"")
        answer = source.answer()
        assert answer is not None
        assert answer.body == text
        begins = [match.start() for match in re.finditer(rb"^id: ", text, re.MULTILINE)] + [len(text)]
        after = data.draw(st.integers(0, len(begins) - 1))
        seen = text[: begins[after]]

        played = Broadcast()
        played.play(answer)

        assert seen + client_of(join(played, after=after)).body == text
        assert seen + client_of(join(source, after=after)).body == text

    run(scene())


# -- endings -------------------------------------------------------------------------------------------


def test_a_stream_that_was_closed_amid_is_closed_for_all_and_may_be_tried_again() -> None:
    async def scene() -> None:
        source = Broadcast()
        reader = join(source)
        source.start(200, STREAM)
        source.write(ONE)
        source.end(close=True)

        assert client_of(reader).closed
        assert source.is_spent
        assert not source.is_final

    run(scene())


def test_an_answer_that_is_broken_off_is_broken_off_for_all_behind_what_there_was() -> None:
    async def scene() -> None:
        source = Broadcast()
        there, behind, unbegun = join(source), join(source, Asked(Client(room=1))), Broadcast()
        nothing = join(unbegun)
        source.start(200, JSON)
        source.write(b"half")
        source.write(b" an answer")
        source.break_off()
        unbegun.break_off()

        assert client_of(there).broken
        assert not client_of(behind).broken
        client_of(behind).take()
        assert client_of(behind).body == b"half an answer"
        assert client_of(behind).broken
        assert client_of(nothing).broken
        assert source.is_spent

    run(scene())


def test_a_failure_is_told_as_the_generation_tells_it() -> None:
    async def scene() -> None:
        source, plain = Broadcast(), Broadcast()
        told: list[PenstockError] = []
        error = EngineError("lost")
        source.on_failure = told.append

        source.fail(error)
        plain.start(200, JSON)
        plain.fail(error)

        assert told == [error]
        assert plain.cut

    run(scene())


@pytest.mark.parametrize(
    ("status", "final"),
    [(200, True), (400, True), (422, True), (404, False), (409, False), (429, False), (500, False)],
)
def test_only_what_would_be_the_same_again_is_final(status: int, *, final: bool) -> None:
    async def scene() -> None:
        source = Broadcast()

        source.respond(status, JSON, b"{}")

        assert source.is_final is final
        assert source.is_spent is not final

    run(scene())


def test_one_client_is_told_that_its_own_time_is_over_by_an_error_event_if_it_is_not_amid_one() -> None:
    async def scene() -> None:
        source = Broadcast()
        there, behind = join(source), join(source, Asked(Client(room=PIECE_BYTES - 10)))
        unbegun = join(Broadcast())
        source.start(200, STREAM)
        source.write(event(b"x" * 2 * PIECE_BYTES))
        error = EngineError("no more", code="enough")
        client_of(unbegun).start(200, [])

        for reader in (there, behind, unbegun):
            client_of(reader).fail(error)

        for reader in (there, unbegun):
            assert client_of(reader).body.endswith(b'"code":"enough"}}\n\n')
            assert client_of(reader).closed
        assert client_of(behind).broken

    run(scene())


# -- plain answers -------------------------------------------------------------------------------------


def test_a_plain_answer_is_given_whole_and_once() -> None:
    async def scene() -> None:
        source = Broadcast()
        early = join(source)
        source.respond(200, JSON, b'{"id":"1"}')
        late = join(source)

        for reader in (early, late):
            assert client_of(reader).body == b'{"id":"1"}'
            assert (b"content-length", b"10") in client_of(reader).head
            assert reader.done.done()
        assert source.answer() == Answer(200, (JSON[0],), b'{"id":"1"}')

    run(scene())


def test_a_large_plain_answer_is_given_as_its_client_takes_it() -> None:
    async def scene() -> None:
        body = bytes(range(256)) * (WHOLE_BYTES_MAX // 256 + 1)
        source = Broadcast()
        source.play(Answer(200, (JSON[0],), body))

        reader = join(source, Asked(Client(room=1)))

        client = client_of(reader)
        assert len(client.body) == PIECE_BYTES
        while not client.ended:
            client.take(room=1)
        assert client.body == body

    run(scene())


def test_a_plain_answer_is_not_mistaken_for_events() -> None:
    async def scene() -> None:
        source = Broadcast()
        reader = join(source)
        source.start(200, JSON)
        source.write(b": not a comment\n\n")
        source.end()

        assert client_of(reader).body == b": not a comment\n\n"

    run(scene())


# -- silence before the head ---------------------------------------------------------------------------


def test_a_stream_that_waits_hears_comments_and_then_its_answer() -> None:
    async def scene() -> None:
        source = Broadcast()
        waits, plain = join(source), join(source, Asked(stream=False))

        source.comment()
        source.comment()
        source.play(Answer(200, tuple(STREAM[:1]), b"id: 1\n" + DONE))

        assert client_of(waits).head == [
            (b"content-type", b"text/event-stream"),
            (b"x-request-id", b"req_mine"),
        ]
        assert client_of(waits).body == COMMENT + COMMENT + b"id: 1\n" + DONE
        assert client_of(waits).ended
        assert client_of(plain).body == b"id: 1\n" + DONE

    run(scene())


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, b'{"error":{}}', b'data: {"error":{}}\n\n'),
        (400, b'{"error":\n{}}', b'"code":"engine_status_400"}}\n\n'),
        (200, b'{"id":"1"}', b'"code":"engine_status_200"}}\n\n'),
    ],
)
def test_an_answer_that_is_no_stream_comes_to_one_that_heard_comments_as_an_error(
    status: int, body: bytes, told: bytes
) -> None:
    async def scene() -> None:
        source = Broadcast()
        reader = join(source)
        source.comment()

        source.respond(status, JSON, body)

        assert client_of(reader).body.endswith(told)
        assert client_of(reader).closed
        assert reader.done.done()

    run(scene())


# -- pace and memory -----------------------------------------------------------------------------------


def test_a_slow_client_gets_all_and_holds_up_nobody() -> None:
    async def scene() -> None:
        source = Broadcast()
        fast, slow = join(source), join(source, Asked(Client(room=1)))
        source.start(200, STREAM)
        for _ in range(200):
            source.write(event(b"x" * 10_000))
        source.end()

        assert client_of(fast).ended
        assert len(client_of(slow).body) < 3 * PIECE_BYTES
        assert not source.write_paused
        while not client_of(slow).ended:
            client_of(slow).take(room=1)
        assert client_of(slow).body == client_of(fast).body

    run(scene())


def test_an_answer_too_large_to_keep_goes_on_at_the_pace_of_the_slowest() -> None:
    async def scene() -> None:
        source = Broadcast(bytes_max=100_000)
        pauses: list[bool] = []
        source.on_write_pause = pauses.append
        fast, slow = join(source), join(source, Asked(Client(room=1)))
        source.start(200, STREAM)
        written = 0
        while not source.write_paused:
            source.write(event(b"x" * 1000))
            written += 1

        assert written * 1000 < WINDOW_BYTES + 3 * PIECE_BYTES
        client_of(slow).take()
        assert pauses == [True, False]
        for _ in range(2000):
            source.write(event(b"x" * 1000))
        assert source.size - source._base < 3 * PIECE_BYTES
        source.end()

        assert client_of(slow).body == client_of(fast).body
        assert len(client_of(fast).body) == source.bytes_written
        assert source.answer() is None
        with pytest.raises(AnswerTooLargeError):
            join(source)

    run(scene())


def test_when_the_slowest_leaves_the_generation_goes_on() -> None:
    async def scene() -> None:
        source = Broadcast(bytes_max=100_000)
        slow = join(source, Asked(Client(room=1)))
        source.start(200, STREAM)
        while not source.write_paused:
            source.write(event(b"x" * 1000))

        source.detach(slow)

        assert not source.write_paused
        source.write(event(b"x" * 1_000_000))
        assert not source.write_paused

    run(scene())


def test_a_plain_answer_too_large_to_keep_still_comes_whole() -> None:
    async def scene() -> None:
        source = Broadcast(bytes_max=100)
        reader = join(source)

        source.respond(200, JSON, b"x" * 101)

        assert client_of(reader).body == b"x" * 101
        assert source.answer() is None

    run(scene())


def test_a_head_too_large_is_not_kept() -> None:
    async def scene() -> None:
        source = Broadcast()

        source.respond(200, [*JSON, (b"x-long", b"x" * 40_000)], b"{}")

        assert source.answer() is None

    run(scene())


def test_those_who_wait_are_told_when_there_is_no_answer() -> None:
    async def scene() -> None:
        source = Broadcast()
        readers = [join(source), join(source)]

        source.refuse(EngineError("nothing"))

        for reader in readers:
            with pytest.raises(EngineError):
                reader.done.result()
        assert not source.is_read

    run(scene())


def test_the_answer_is_generated_for_the_first_who_wants_all_of_it() -> None:
    async def scene() -> None:
        source = Broadcast()
        resumes, first, second = join(source, after=4), join(source), join(source)

        owner = source.elect()

        assert owner is first
        assert (first.owns, second.owns) == (True, False)
        with pytest.raises(ClientError) as caught:
            resumes.done.result()
        assert (caught.value.status, caught.value.code) == (409, "nothing_to_resume")

    run(scene())
