"""One attempt's answer on its way to the client.

`PlainRelay` holds an answer back until it is whole, so that a failure can still be tried again; one too large
for that is passed on as it comes. `StreamRelay` copies whole events, and parses only the few that may carry
usage or an ending. Neither awaits anything per read: the engine's read ends in the client's write.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus

from penstock.core.errors import ClientError, EngineError, PenstockError
from penstock.core.record import RequestRecord
from penstock.engines.exchange import Exchange, Headers
from penstock.gateway.forwarding import content_type
from penstock.gateway.responder import Responder
from penstock.gateway.responses import error_event
from penstock.gateway.timing import timing_headers
from penstock.wire import sse
from penstock.wire.delivered import Delivered
from penstock.wire.joint import DivergedError, Joint
from penstock.wire.usage import NOTABLE, NOTABLE_WORDS, Notice, TokenCounts, read_notice, usage_at_end

# Answers up to this size are held until they are whole. A chat answer is a few kilobytes.
HELD_BYTES_MAX = 1024 * 1024

# What is kept of the end of a larger one: usage is there.
TAIL_BYTES = 2048

# How much of an engine's own words goes into an error.
COMPLAINT_CHARS_MAX = 500

Rewrite = Callable[[bytes], bytes]


# A reply that is rewritten is held whole, whatever its size, up to this.
REWRITTEN_BYTES_MAX = 16 * 1024 * 1024


class EngineAbortedError(EngineError):
    """The engine gave up amid its answer and said so."""

    code = "engine_aborted"


class StreamCutError(EngineError):
    """The engine ended its stream without the end mark."""

    code = "engine_stream_incomplete"


class MalformedEventError(EngineError):
    """The engine sent an event that can't be read."""

    code = "engine_malformed_response"


class AnswerDivergedError(EngineError):
    """An engine that was to go on with an answer wrote another one."""

    code = "engine_answer_diverged"


class PlainRelay:
    """A reply that is not streamed.

    Args:
        headers: of the response to the client, without its length and those of `timing`.
        before_end: called before the client sees the end of a whole answer; may raise PenstockError.
        rewrite: changes a whole successful body; such a body is always held until it is whole.
    """

    def __init__(
        self,
        exchange: Exchange,
        responder: Responder,
        record: RequestRecord,
        headers: Headers,
        *,
        rewrite: Rewrite | None,
        before_end: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._responder = responder
        self._record = record
        self._headers = headers
        self._before_end = before_end
        self._clock = clock
        self._rewrite = rewrite if exchange.status < 300 else None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._tail = b""

    @property
    def committed(self) -> bool:
        """Whether the client has seen any of the answer."""
        return self._responder.started

    async def run(self) -> None:
        """Relays the answer to its end.

        Raises:
            EngineError: the engine failed amid it.
            PenstockError: its end may not be shown.
        """
        _attach(self._exchange, self._responder, self._on_data, self.fail, self._exchange.hold)
        await self._exchange.end()
        if self.committed:
            _note_usage(self._record, usage_at_end(self._tail))
            self._before_end()
            self._responder.end()
            return
        body = b"".join(self._held)
        notice = read_notice(body)
        if self._exchange.status == HTTPStatus.OK and _is_open_json(self._exchange.headers):
            _check_answer(notice, body)
        _note_usage(self._record, notice.counts)
        if self._rewrite is not None:
            body = self._rewrite(body)
        self._before_end()
        self._record.first_byte_s = self._clock()
        self._responder.respond(self._exchange.status, self._headers + timing_headers(self._record), body)

    def fail(self, error: PenstockError) -> None:  # noqa: ARG002 - there is no room for it in half an answer
        """Lets the client see that its answer is not whole."""
        self._responder.break_off()

    def _on_data(self, data: bytes) -> None:
        if self.committed:
            self._tail = (self._tail + data)[-TAIL_BYTES:]
            self._responder.write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes <= HELD_BYTES_MAX:
            return
        if self._rewrite is None:
            self._record.first_byte_s = self._clock()
            self._responder.start(self._exchange.status, self._headers + timing_headers(self._record))
            self._responder.write(b"".join(self._held))
            self._held.clear()
        elif self._held_bytes > REWRITTEN_BYTES_MAX:
            self._exchange.fail(
                EngineError("the engine's reply is too large", code="engine_malformed_response")
            )


class StreamRelay:
    """A reply in server-sent events.

    Args:
        hides_usage: the usage event was asked for by the gateway, and is kept from the client.
        needs_done: this API ends its streams with `[DONE]`; one without it is not whole.
        rewrite: changes each event; an empty result leaves it out.
        before_end: called before the client sees the end of a whole answer; may raise PenstockError.
        comments: fill the silence; they run.
        delivered: remembers what the client was sent, before it was rewritten.
        joint: makes the events go on with an answer that has begun.
    """

    def __init__(
        self,
        exchange: Exchange,
        responder: Responder,
        record: RequestRecord,
        headers: Headers,
        *,
        hides_usage: bool,
        needs_done: bool,
        rewrite: Rewrite | None,
        before_end: Callable[[], None],
        comments: Comments,
        clock: Callable[[], float],
        delivered: Delivered | None = None,
        joint: Joint | None = None,
    ) -> None:
        self._exchange = exchange
        self._responder = responder
        self._record = record
        self._headers = headers
        self._hides_usage = hides_usage
        self._needs_done = needs_done
        self._rewrite = rewrite
        self._before_end = before_end
        self._clock = clock
        self._delivered = None if delivered is None or delivered.obstacle else delivered
        self._joint = joint
        self._examines_all = rewrite is not None or joint is not None
        self._framer = sse.EventFramer()
        self._comments = comments
        self._done = False
        self._complaint: PenstockError | None = None
        self._waited = False  # for the client to read, since the last token
        self.committed = False

    async def run(self) -> None:
        """Relays the stream to its end.

        Raises:
            EngineError: the engine failed, before or amid the first event; see `committed`.
            PenstockError: its end may not be shown.
        """
        self._comments.write = self._comment
        self._comments.last_s = self._clock()
        try:
            _attach(self._exchange, self._responder, self._on_data, self.fail, self._hold)
            await self._exchange.end()
        except EngineError:
            # after its end mark, how an engine hangs up is its own affair
            if not self._done and self._complaint is None:
                raise
        finally:
            self._responder.on_write_pause = None
        if self._complaint is not None:
            raise self._complaint
        if not self._done:
            if self._framer.rest or self._needs_done:
                raise StreamCutError("the engine ended its stream without [DONE]")
            self._before_end()
        self._start()
        self._responder.end()

    def fail(self, error: PenstockError) -> None:
        """Tells the client that its answer is not whole: one error event, and no `[DONE]`."""
        fail_stream(self._responder, error)

    def _on_chunk(self, chunk: bytes, size: int) -> bool:
        """Passes a whole chunk on as it is, where it holds one event that is as those before: almost all are."""
        delivered = self._delivered
        if delivered is None or self._framer.held or not delivered.add(chunk, size):
            return False
        record = self._record
        record.events += 1
        record.last_token_s = self._comments.last_s = self._exchange.last_byte_s = self._clock()
        self._responder.write_chunk(chunk, size)
        if delivered.obstacle:
            self._delivered = None
        return True

    def _on_measured_chunk(self, chunk: bytes, size: int) -> bool:
        """The same of a stream whose gaps are measured."""
        last_s = self._record.last_token_s
        taken = self._on_chunk(chunk, size)
        if taken:
            self._measure(last_s, 1)
        return taken

    def _on_data(self, data: bytes) -> None:
        delivered = self._delivered
        try:
            events = self._framer.feed(data)
        except sse.EventTooLargeError as error:
            self._exchange.fail(
                EngineError(f"the engine's stream is malformed: {error}", code="engine_malformed_response")
            )
            return
        record = self._record
        count = sse.count_events(events)
        if record.first_token_s is None or self._examines_all or _maybe_notable(events, count):
            before = record.events
            events = self._examined(events)
            count = record.events - before
        else:
            record.events += count
            if delivered is not None and events:
                self._remember(delivered, events)
        if not events:
            return
        self._comments.last_s = now_s = self._clock()
        if count:
            if record.gaps is not None:
                self._measure(record.last_token_s, count)
            record.last_token_s = now_s
        if not self.committed:
            self.committed = True
            record.first_byte_s = now_s
            self._start()
            if delivered is not None and not self._examines_all and self._responder.chunked:
                self._exchange.on_chunk = self._on_chunk if record.gaps is None else self._on_measured_chunk
        self._responder.write(events)

    def _measure(self, last_s: float | None, count: int) -> None:
        """Counts the gap from the token at `last_s`, if there was one, to as many as `count` that came together.

        Where the client was waited for, neither the gap nor what piled up in it is the engine's.
        """
        gaps = self._record.gaps
        assert gaps is not None
        if self._waited:
            self._waited = False
            return
        if last_s is not None:
            gaps.observe(self._comments.last_s - last_s)
        if count > 1:
            gaps.observe(0.0, count - 1)

    def _hold(self, paused: bool) -> None:
        """Stops reading from the engine while the client does not take what came, or reads again."""
        self._waited = self._waited or not paused
        self._exchange.hold(paused)

    def _examined(self, events: bytes) -> bytes:
        """`events` as the client shall see them.

        What they tell goes on the record, each before the next one is read: the last may be the end, by which
        the record is written down.
        """
        kept = []
        for event in sse.split_events(events):
            try:
                joined = self._joined(event)
                notice = self._read(sse.event_data(joined))
            except PenstockError as error:
                self._complaint = error
                self._exchange.cancel()
                break
            if not joined or (self._hides_usage and notice.only_usage):
                continue
            self._record.events += notice.has_token or (notice.choices is None and not self._needs_done)
            if self._delivered is not None:
                self._remember(self._delivered, joined)
            kept.append(joined if self._rewrite is None else self._rewrite(joined))
        return b"".join(kept)

    def _joined(self, event: bytes) -> bytes:
        """The event as more of the answer that has begun, where there is one; empty where it adds nothing."""
        joint = self._joint
        data = sse.event_data(event) if joint is not None else b""
        if joint is None or not data:
            return event
        try:
            if data == b"[DONE]":
                joint.end()
                return event
            return joint.take(event, data)
        except DivergedError as error:
            raise AnswerDivergedError(f"the engine went on with another answer: {error}") from None

    def _read(self, data: bytes) -> Notice:
        """What an event with this data says.

        Raises:
            PenstockError: the engine has failed, or the end may not be shown.
        """
        if data == b"[DONE]":
            self._before_end()
            self._done = True
        if not data or data == b"[DONE]":
            return _NOTHING_SAID
        notice = read_notice(data)
        if notice.aborted:
            raise EngineAbortedError("the engine aborted the request")
        if self._needs_done:
            _complain(notice, data)
        _note_usage(self._record, notice.counts)
        if self._record.first_token_s is None:
            if notice.has_token or (notice.choices is None and not self._needs_done):
                self._record.first_token_s = self._clock()
            else:
                self._exchange.expect_first_token()
        return notice

    def _remember(self, delivered: Delivered, events: bytes) -> None:
        delivered.keep(events)
        if delivered.obstacle:  # it will not be continued: no more need be remembered
            self._delivered = None

    def _start(self) -> None:
        if not self._responder.started:
            self._responder.start(self._exchange.status, self._headers + timing_headers(self._record))
        self._headers = _SENT  # a stream may last for long

    def _comment(self) -> None:
        self._start()
        if not self._responder.write_paused and not self._responder.ended:
            self._responder.write(sse.COMMENT)


def _leave_it() -> None:
    pass


class Comments:
    """Fills silence with comments, from before a stream begins to its end.

    Args:
        every_s: silence after which it is due.
        clock: monotonic seconds.
        write: sends one; whoever writes the stream puts its own way in its place.
    """

    __slots__ = ("_clock", "_every_s", "_loop", "_timer", "last_s", "write")

    def __init__(
        self, every_s: float, clock: Callable[[], float], write: Callable[[], None] = _leave_it
    ) -> None:
        self.write = write
        self._every_s = every_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(every_s, self._due)
        self.last_s = clock()  # when something was written

    def hush(self) -> None:
        """Sends nothing until somebody has a way to: what comes is no stream."""
        self.write = _leave_it

    def stop(self) -> None:
        """Watches no longer."""
        self.hush()  # it refers to what refers to us: not left to the garbage collector
        self._timer.cancel()

    def _due(self) -> None:
        due_s = self.last_s + self._every_s
        now_s = self._clock()
        if now_s >= due_s:
            self.write()
            self.last_s, due_s = now_s, now_s + self._every_s
        self._timer = self._loop.call_later(due_s - now_s, self._due)


def fail_stream(responder: Responder, error: PenstockError) -> None:
    """Tells the client that its answer is not whole: one error event, and no `[DONE]`."""
    responder.write(error_event(error))
    responder.end(close=True)


_SENT: Headers = []  # never written to
_NOTHING_SAID = Notice(choices=[])


def _maybe_notable(events: bytes, count: int) -> bool:
    if count == 1:
        if b'"finish_reason":null' in events and events.endswith(b"}\n\n"):
            return False  # an ordinary event: the answer goes on
        if not events.endswith(_ENDS):
            return True
    elif events.count(b"}\n\n") != count:
        return True
    return any(word in events for word in NOTABLE_WORDS) and NOTABLE.search(events) is not None


# How the JSON of an event ends; another end is looked at.
_ENDS = (b"}\n\n", b"}\r\n\r\n")


def _complain(notice: Notice, data: bytes) -> None:
    """Raises what an event tells of a failure: that of the engine, or that of the request."""
    complaint = notice.complaint
    if complaint is not None:
        text = complaint.message[:COMPLAINT_CHARS_MAX]
        if 400 <= complaint.status < 500:
            raise ClientError(text, code=f"engine_status_{complaint.status}", status=complaint.status)
        raise EngineAbortedError(f"the engine failed: {text}")
    if notice.choices is None and not _is_json(data):
        raise MalformedEventError("the engine's stream is malformed: an event is not JSON")


def _is_open_json(headers: Headers) -> bool:
    for name, _ in headers:
        if name == b"content-encoding":
            return False
    return content_type(headers) == "application/json"


def _check_answer(notice: Notice, body: bytes) -> None:
    """Raises what is wrong with a whole plain answer that HTTP calls good."""
    if notice.aborted:
        raise EngineAbortedError("the engine aborted the request")
    if notice == _UNREAD and not _is_json(body):
        raise MalformedEventError("the engine's answer is not whole: it is no JSON")


_UNREAD = Notice()


def _is_json(data: bytes) -> bool:
    try:  # more than msgspec takes: halves of surrogate pairs, numbers beyond a float
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _note_usage(record: RequestRecord, usage: TokenCounts | None) -> None:
    if usage is not None:
        known = record.usage
        known.prompt_tokens = known.prompt_tokens if usage.prompt is None else usage.prompt
        known.completion_tokens = known.completion_tokens if usage.completion is None else usage.completion
        known.source = "engine"


def _attach(
    exchange: Exchange,
    responder: Responder,
    on_data: Callable[[bytes], None],
    on_failure: Callable[[PenstockError], None],
    on_pause: Callable[[bool], None],
) -> None:
    """Lets the engine's bytes flow, no faster than the client takes them."""
    responder.on_write_pause = on_pause
    responder.on_failure = on_failure
    exchange.receive(on_data)
    if responder.write_paused:
        exchange.pause()
