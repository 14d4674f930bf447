"""Replies under way: what the client gets when the engine makes a token, and what a fault makes of it.

A reply ends exactly once, by `Ending`; whoever ends it, its owner hears of it through `on_end`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from penstock.simulator.answers import Answer
from penstock.simulator.chunks import StreamFormat
from penstock.simulator.faults import Fault

Later = Callable[[float, Callable[[], None]], object]


class Ending(StrEnum):
    """How a reply ended."""

    FINISHED = "finished"  # the client was sent all of it
    CANCELLED = "cancelled"  # the client left first
    FAILED = "failed"  # a fault cut it short


class Wire(Protocol):
    """Where the bytes of one reply go."""

    @property
    def writable(self) -> bool:
        """Whether the socket takes more now."""

    def write(self, data: bytes) -> None:
        """Sends `data`."""

    def end(self) -> None:
        """Says that the reply is whole."""

    def reset(self) -> None:
        """Sends what was written, then resets the connection."""


class Trickle:
    """A wire that lets one byte through at a time, every `every_s` seconds."""

    __slots__ = ("_buffer", "_every_s", "_later", "_then", "_under_way", "_wire")

    def __init__(self, wire: Wire, later: Later, every_s: float) -> None:
        self._wire = wire
        self._later = later
        self._every_s = every_s
        self._buffer = bytearray()
        self._then: Callable[[], None] | None = None
        self._under_way = False

    @property
    def writable(self) -> bool:
        """Always: the buffer is bounded by the longest answer."""
        return True

    def write(self, data: bytes) -> None:
        """Puts `data` behind what waits already."""
        self._buffer += data
        self._start()

    def end(self) -> None:
        """Ends the reply once the last byte is through."""
        self._then = self._wire.end
        self._start()

    def reset(self) -> None:
        """Resets the connection once the last byte is through."""
        self._then = self._wire.reset
        self._start()

    def _start(self) -> None:
        if not self._under_way:
            self._under_way = True
            self._later(self._every_s, self._let_one_through)

    def _let_one_through(self) -> None:
        self._under_way = False
        if self._buffer:
            self._wire.write(bytes(self._buffer[:1]))
            del self._buffer[:1]
        if self._buffer:
            self._start()
        elif self._then:
            then, self._then = self._then, None
            then()


class Reply:
    """One generation on its way to its client.

    Args:
        request_id: names it in the engine.
        answer: all of what the engine will say.
        wire: where it goes.
        fault: what goes wrong.
        on_end: called once, with how it ended.
        later: runs a function after a number of seconds.
    """

    __slots__ = (
        "_cap",
        "_later",
        "answer",
        "arrived_s",
        "due",
        "ended",
        "fault",
        "first_s",
        "last_s",
        "on_end",
        "request_id",
        "stalled",
        "total",
        "wire",
    )

    def __init__(
        self,
        request_id: str,
        answer: Answer,
        wire: Wire,
        fault: Fault,
        on_end: Callable[[Reply, Ending], None],
        later: Later,
    ) -> None:
        self.request_id = request_id
        self.answer = answer
        self.wire = wire if fault.trickle_s is None else Trickle(wire, later, fault.trickle_s)
        self.fault = fault
        self.on_end = on_end
        self.total = len(answer.tokens)
        self.due = 0
        self.ended: Ending | None = None
        self.stalled = False
        self.arrived_s = 0.0
        self.first_s: float | None = None
        self.last_s: float | None = None
        self._later = later
        self._cap = self._token_cap(fault)

    def start(self) -> None:
        """The engine took the request."""
        self._advance()

    def token(self) -> None:
        """The engine made one more token."""
        self.due += 1
        self._advance()

    def block(self) -> None:
        """The socket takes no more for now."""

    def wake(self) -> None:
        """The socket takes more again."""
        self._advance()

    def abort(self) -> None:
        """Ends it before its time, as vLLM does when it shuts down."""
        if self.ended is None:
            self._cap = min(self._cap, self.due)
            self._send_abort()

    def cancel(self) -> None:
        """Its client has left."""
        self._end(Ending.CANCELLED)

    def _token_cap(self, fault: Fault) -> int:
        limits = (fault.reset_after_tokens, fault.stall_after_tokens, fault.abort_after_tokens)
        return 0 if fault.stall_before_first else min([self.total, *(n for n in limits if n is not None)])

    def _advance(self) -> None:
        """Sends what is due and may be sent."""
        raise NotImplementedError

    def _send_abort(self) -> None:
        """Sends an end that says "abort"."""
        raise NotImplementedError

    def _strike(self) -> bool:
        """Does what the fault has in store after its last good token; False where there is nothing."""
        cap = self._cap
        fault = self.fault
        if fault.reset_after_tokens == cap:
            self.wire.reset()
            self._end(Ending.FAILED)
        elif fault.abort_after_tokens == cap:
            self._send_abort()
        elif fault.stall_before_first or fault.stall_after_tokens == cap:
            self.stalled = True
        else:
            return False
        return True

    def _end(self, ending: Ending) -> None:
        if self.ended is None:
            self.ended = ending
            self.on_end(self, ending)


class StreamReply(Reply):
    """A reply in server-sent events; its head is on the wire already.

    A client that reads too slowly gets several tokens in one chunk, as from vLLM; nothing is queued for it.

    Args:
        form: makes its events.
        include_usage: it ends with a usage chunk.
    """

    __slots__ = (
        "_deltas",
        "_form",
        "_include_usage",
        "_prefixes",
        "_quick",
        "_role",
        "_sent",
        "_suffix",
        "_write",
    )

    def __init__(
        self,
        request_id: str,
        answer: Answer,
        wire: Wire,
        fault: Fault,
        on_end: Callable[[Reply, Ending], None],
        later: Later,
        form: StreamFormat,
        include_usage: bool,
        quick: bool,
    ) -> None:
        super().__init__(request_id, answer, wire, fault, on_end, later)
        self._form = form
        self._include_usage = include_usage and not fault.no_usage
        self._deltas = answer.deltas
        self._prefixes = form.prefixes
        self._suffix = form.suffix
        self._write = self.wire.write
        self._role = form.role()
        self._sent = 0
        plain = fault.malformed is None and fault.tokens_per_chunk == 1 and self._cap == self.total
        self._quick = -1 if quick and plain else 0

    def start(self) -> None:
        """Sends the role at once where the fault says so; else it comes with the first token."""
        if self.fault.early_role:
            self._write(self._take_role())
        if not self._cap:
            self._strike()

    def token(self) -> None:
        """The engine made one more token: the path that most tokens take."""
        due = self.due = self.due + 1
        # Quick means: every token before this one is sent, and nothing needs a second look until the last.
        if self._quick == due and due < self.total:
            delta = self._deltas[due - 1]
            self._sent = due
            # Before the write, in which the socket may call `block`.
            self._quick = due + 1
            self._write(self._prefixes[len(delta)] + delta + self._suffix)
        else:
            self._advance()

    def block(self) -> None:
        """The socket takes no more for now."""
        if self._quick > 0:
            self._quick = -1

    def _take_role(self) -> bytes:
        role, self._role = self._role, b""
        return role

    def _advance(self) -> None:
        if self.ended is not None or self.stalled or not self.wire.writable:
            return
        upto = min(self.due, self._cap)
        at_cap = upto == self._cap
        if upto - self._sent < self.fault.tokens_per_chunk and not at_cap:
            return
        if at_cap and self._cap == self.total and not self._at_fault():
            self._finish()
            return
        if upto > self._sent:
            self._write(self._take_role() + self._chunk(self._sent, upto))
            self._sent = upto
        if self._quick < 0 and self.wire.writable:
            self._quick = upto + 1
        if at_cap:
            self._strike()

    def _at_fault(self) -> bool:
        return self._cap in (
            self.fault.reset_after_tokens,
            self.fault.abort_after_tokens,
            self.fault.stall_after_tokens,
        )

    def _chunk(self, start: int, end: int, finish: str | None = None, stop: str | None = None) -> bytes:
        broken_at = self.fault.malformed
        return self._form.tokens(
            self._deltas[start:end],
            self.answer.tokens[start:end],
            finish,
            stop,
            broken=broken_at is not None and start < broken_at <= end,
        )

    def _finish(self) -> None:
        answer = self.answer
        last = self._chunk(self._sent, self.total, answer.finish_reason, answer.stop_reason)
        self._sent = self.total
        data = self._take_role() + last
        if self.fault.late_usage_s is None:
            self._close(data)
        else:
            self._write(data)
            self.stalled = True
            self._later(self.fault.late_usage_s, lambda: self._close(b""))

    def _send_abort(self) -> None:
        sent, self._sent = self._sent, self._cap
        self._close(self._take_role() + self._chunk(sent, self._cap, "abort"))

    def _close(self, data: bytes) -> None:
        if self.ended is None:
            usage = self._form.usage(self._sent) if self._include_usage else b""
            self._write(data + usage + self._form.done())
            self.wire.end()
            self._end(Ending.FINISHED)


class PlainReply(Reply):
    """A reply in one piece.

    Args:
        render: makes the whole HTTP response of the first n tokens, a finish reason and a stop reason.
    """

    __slots__ = ("_render",)

    def __init__(
        self,
        request_id: str,
        answer: Answer,
        wire: Wire,
        fault: Fault,
        on_end: Callable[[Reply, Ending], None],
        later: Later,
        render: Callable[[int, str, str | None], bytes],
    ) -> None:
        super().__init__(request_id, answer, wire, fault, on_end, later)
        self._render = render

    def _advance(self) -> None:
        if self.ended is not None or self.stalled or self.due < self._cap:
            return
        if not self._strike():
            self._close(self._render(self.total, self.answer.finish_reason, self.answer.stop_reason))

    def _send_abort(self) -> None:
        self._close(self._render(self._cap, "abort", None))

    def _close(self, data: bytes) -> None:
        self.wire.write(data)
        self.wire.end()
        self._end(Ending.FINISHED)
