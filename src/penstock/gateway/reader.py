"""`Reader`: one request's client, which gets the answer of a `Broadcast` at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.core.errors import ClientError, DeadlineError, EngineError, PenstockError, Phase
from penstock.gateway.broadcast import EVENT_STREAM, REPLAYED, Broadcast
from penstock.gateway.call import Call
from penstock.gateway.request_id import HEADER as REQUEST_ID
from penstock.gateway.responses import error_body, error_event, error_headers
from penstock.wire import sse

WHOLE_BYTES_MAX = 1024 * 1024  # of a plain answer that is given in one write


class Reader:
    """One request's client, which gets the answer of a broadcast.

    Args:
        after: the number of the last event that the client has; 0 for none.
        clock: monotonic seconds.
    """

    __slots__ = ("_begun", "_clock", "_source", "after", "call", "done", "offset", "owns")

    def __init__(self, source: Broadcast, call: Call, after: int, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._begun = False
        self.call = call
        self.after = after
        self.offset = 0
        self.owns = False  # the answer is generated for this request
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call.responder.on_write_pause = self._writing_paused
        call.responder.on_failure = self.fail

    def begin(self) -> None:
        """The head is there."""
        source, responder, record = self._source, self.call.responder, self.call.record
        offset = source.offset_after(self.after) if source.is_stream else 0
        if offset is None:
            self.refuse(_no_such_event(self.after))
            return
        self.offset = offset
        headers = source.headers
        if not self.owns:
            record.replayed = True
            record.status, record.first_byte_s = source.status, self._clock()
            headers = [*source.headers_kept(), (REQUEST_ID, record.request_id.encode()), REPLAYED]
        if responder.started:  # by comments
            if not source.is_stream:
                self._tell_late()
                return
        elif source.is_whole and source.size <= WHOLE_BYTES_MAX:
            responder.respond(source.status, headers, source.whole())
            self._finish()
            return
        else:
            responder.start(source.status, headers)
        self._begun = True
        self.pump()

    def pump(self) -> None:
        """Gives the client what it takes of what is there."""
        source, responder = self._source, self.call.responder
        if responder.gone:
            return
        while self._begun and not responder.write_paused and self.offset < source.size:
            piece = source.read(self.offset)
            self.offset += len(piece)
            responder.write(piece)
        if source.cut and (not self._begun or self.offset == source.size):
            responder.break_off()
            self._finish()
        elif source.ended and self._begun and self.offset == source.size:
            responder.end(close=source.closes)
            self._finish()

    def comment(self, data: bytes) -> None:
        """Breaks the silence, where the client waits for events; it may never have heard from us."""
        responder = self.call.responder
        if not responder.started:
            if not self.call.request.stream:
                return
            record = self.call.record
            headers = [(b"content-type", EVENT_STREAM.encode()), (REQUEST_ID, record.request_id.encode())]
            responder.start(200, headers)
            record.status = 200
        if not responder.write_paused:  # else it has enough to read
            responder.write(data)

    def refuse(self, error: PenstockError) -> None:
        """There is no answer for this client."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # nobody may be there to ask for it
        self._source.detach(self)

    def expire(self) -> None:
        """The client's time is over; the generation has a deadline of its own, and what is there may be read."""
        call = self.call
        if self._source.ended or (self.owns and call.deadline_s >= model_deadline_s(call)):
            return
        error = DeadlineError(
            "the answer to this Idempotency-Key is not there yet; it goes on being made",
            phase=Phase.TOTAL,
            hint="send the request again, with the same key",
        )
        if not self.owns:
            self.refuse(error)
            return
        # its record is that of the generation, which is not over
        if call.responder.started:
            self.fail(error)
        elif not call.responder.gone:
            headers = [*error_headers(error), (REQUEST_ID, call.record.request_id.encode())]
            call.responder.respond(error.status, headers, error_body(error))
        self._finish()

    def fail(self, error: PenstockError) -> None:
        """Lets the client see that its answer is not whole: by an error event, unless it waits amid one."""
        source, responder = self._source, self.call.responder
        if self._begun and not (source.is_stream and self.offset == source.size):
            responder.break_off()
            return
        responder.write(error_event(error))
        responder.end(close=True)

    def _tell_late(self) -> None:
        """The client got comments, and expects events: it can't be told a status any more."""
        source, responder = self._source, self.call.responder
        body = source.whole() if source.is_whole and source.status >= 400 else b"\n"
        if b"\n" in body:
            body_event = error_event(
                EngineError("the engine did not answer by a stream", code=f"engine_status_{source.status}")
            )
        else:
            body_event = sse.event(body)
        responder.write(body_event)
        responder.end(close=True)
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._source.detach(self)

    def _writing_paused(self, paused: bool) -> None:
        if not paused:
            self.pump()
            self._source.moved()


def model_deadline_s(call: Call) -> float:
    """When the answer to this call must be over: by the model's limit, whatever its client's is."""
    return call.record.arrived_s + call.timeouts.total_s


def _no_such_event(number: int) -> ClientError:
    return ClientError(
        f"Last-Event-ID: there is no event {number}",
        code="invalid_last_event_id",
        param="Last-Event-ID",
        hint="leave it out to have all events",
    )
