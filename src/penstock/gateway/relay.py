"""One attempt's answer on its way to the client.

`PlainRelay` holds an answer back until it is whole, so that a failure can still be tried again; one too large
for that is passed on as it comes. `StreamRelay` copies whole events, and parses only the few that may carry
usage or an ending. Neither awaits anything per read: the engine's read ends in the client's write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.core.errors import ClientError, EngineError, PenstockError
from penstock.core.record import RequestRecord
from penstock.engines.exchange import Exchange, Headers
from penstock.gateway.responder import Responder
from penstock.gateway.responses import error_event
from penstock.wire import sse
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


class PlainRelay:
    """A reply that is not streamed.

    Args:
        headers: of the response to the client, without its length.
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
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._responder = responder
        self._record = record
        self._headers = headers
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
        """
        _attach(self._exchange, self._responder, self._on_data, self.fail)
        await self._exchange.end()
        if self.committed:
            _note_usage(self._record, usage_at_end(self._tail))
            self._responder.end()
            return
        body = b"".join(self._held)
        _note_usage(self._record, read_notice(body).usage)
        if self._rewrite is not None:
            body = self._rewrite(body)
        self._record.first_byte_s = self._clock()
        self._responder.respond(self._exchange.status, self._headers, body)

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
            self._responder.start(self._exchange.status, self._headers)
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
        comment_every_s: silence after which the client gets a comment.
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
        comment_every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._responder = responder
        self._record = record
        self._headers = headers
        self._hides_usage = hides_usage
        self._needs_done = needs_done
        self._rewrite = rewrite
        self._comment_every_s = comment_every_s
        self._clock = clock
        self._framer = sse.EventFramer()
        self._loop = asyncio.get_running_loop()
        self._written_s = clock()
        self._done = False
        self._complaint: PenstockError | None = None
        self.committed = False

    async def run(self) -> None:
        """Relays the stream to its end.

        Raises:
            EngineError: the engine failed, before or amid the first event; see `committed`.
        """
        self._timer = self._loop.call_later(self._comment_every_s, self._comment)
        try:
            _attach(self._exchange, self._responder, self._on_data, self.fail)
            await self._exchange.end()
        except EngineError:
            # after its end mark, how an engine hangs up is its own affair
            if not self._done and self._complaint is None:
                raise
        finally:
            self._timer.cancel()
        if self._complaint is not None:
            raise self._complaint
        if self._framer.rest or (self._needs_done and not self._done):
            raise StreamCutError("the engine ended its stream without [DONE]")
        self._start()
        self._responder.end()

    def fail(self, error: PenstockError) -> None:
        """Tells the client that its answer is not whole: one error event, and no `[DONE]`."""
        self._responder.write(error_event(error))
        self._responder.end(close=True)

    def _on_data(self, data: bytes) -> None:
        try:
            events = self._framer.feed(data)
        except sse.EventTooLargeError as error:
            self._exchange.fail(
                EngineError(f"the engine's stream is malformed: {error}", code="engine_malformed_response")
            )
            return
        record = self._record
        count = sse.count_events(events)
        if record.first_token_s is None or self._rewrite is not None or _maybe_notable(events, count):
            events, count = self._examined(events)
        if not events:
            return
        self._written_s = now_s = self._clock()
        if count:
            record.events += count
            record.last_token_s = now_s
        if not self.committed:
            self.committed = True
            record.first_byte_s = now_s
            self._start()
        self._responder.write(events)

    def _examined(self, events: bytes) -> tuple[bytes, int]:
        """`events` without what the client shall not see, and how many of them bring a token.

        What they tell goes on the record.
        """
        kept = []
        token_count = 0
        for event in sse.split_events(events):
            data = sse.event_data(event)
            if data == b"[DONE]":
                self._done = True
            elif data:
                notice = read_notice(data)
                self._complaint = self._complaint_in(notice)
                if self._complaint is not None:
                    self._exchange.cancel()
                    break
                has_token = notice.has_token or (notice.choices is None and not self._needs_done)
                self._learn(notice, has_token=has_token)
                if self._hides_usage and notice.only_usage:
                    continue
                token_count += has_token
            kept.append(event if self._rewrite is None else self._rewrite(event))
        return b"".join(kept), token_count

    def _complaint_in(self, notice: Notice) -> PenstockError | None:
        """What the engine says of its failure; None where it has not failed."""
        if notice.aborted:
            return EngineAbortedError("the engine aborted the request")
        complaint = notice.complaint if self._needs_done else None
        if complaint is None:
            return None
        text = complaint.message[:COMPLAINT_CHARS_MAX]
        if 400 <= complaint.status < 500:
            return ClientError(text, code=f"engine_status_{complaint.status}", status=complaint.status)
        return EngineAbortedError(f"the engine failed: {text}")

    def _learn(self, notice: Notice, *, has_token: bool) -> None:
        if notice.usage is not None:
            _note_usage(self._record, notice.usage)
        if self._record.first_token_s is None:
            if has_token:
                self._record.first_token_s = self._clock()
            else:
                self._exchange.expect_first_token()

    def _start(self) -> None:
        if not self._responder.started:
            self._responder.start(self._exchange.status, self._headers)

    def _comment(self) -> None:
        due_s = self._written_s + self._comment_every_s
        now_s = self._clock()
        if now_s >= due_s:
            self._start()
            if not self._responder.write_paused:
                self._responder.write(sse.COMMENT)
            self._written_s, due_s = now_s, now_s + self._comment_every_s
        self._timer = self._loop.call_later(due_s - now_s, self._comment)


def _maybe_notable(events: bytes, count: int) -> bool:
    if count == 1 and b'"finish_reason":null' in events:  # an ordinary event: the answer goes on
        return False
    return any(word in events for word in NOTABLE_WORDS) and NOTABLE.search(events) is not None


def _note_usage(record: RequestRecord, usage: TokenCounts | None) -> None:
    if usage is not None:
        record.usage.prompt_tokens = usage.prompt
        record.usage.completion_tokens = usage.completion
        record.usage.source = "engine"


def _attach(
    exchange: Exchange,
    responder: Responder,
    on_data: Callable[[bytes], None],
    on_failure: Callable[[PenstockError], None],
) -> None:
    """Lets the engine's bytes flow, no faster than the client takes them."""

    def hold(paused: bool) -> None:
        if paused:
            exchange.pause()
        else:
            exchange.resume()

    responder.on_write_pause = hold
    responder.on_failure = on_failure
    exchange.receive(on_data)
    if responder.write_paused:
        exchange.pause()
