"""`Broadcast`: one answer for any number of clients, each of which reads it at its own pace: `gateway/reader`.

A generation writes to a broadcast as to a `Responder`. It is kept from its beginning, up to a limit; beyond that
only what the slowest reader has still to get, and the generation is held back by it. With nobody there it is not.
The events of a stream are numbered from 1 in `id:` lines; comments go to whoever waits, and are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from penstock.core.errors import ClientError, PenstockError
from penstock.engines.exchange import Headers
from penstock.gateway.forwarding import content_type
from penstock.gateway.request_id import HEADER as REQUEST_ID
from penstock.store.answers import ANSWER_BYTES_MAX, Answer
from penstock.wire import sse

if TYPE_CHECKING:
    from penstock.gateway.reader import Reader

PIECE_BYTES = 64 * 1024  # of one write: as much as a transport takes before it asks for a pause
WINDOW_BYTES = 256 * 1024  # of an answer that is not kept: how far the slowest reader may be behind
HEAD_BYTES_MAX = 32 * 1024  # one larger is not kept

REPLAYED = (b"idempotent-replayed", b"true")
EVENT_STREAM = "text/event-stream"

# What the request itself brings about. Others, as 404, depend on how things stand; 429 passes.
_FINAL_REFUSALS = frozenset({400, 405, 413, 414, 415, 422})

# They tell of one request, not of its answer.
_OF_THE_REQUEST = frozenset({REQUEST_ID, REPLAYED[0], b"server-timing", b"retry-after"})
_LIMITS = b"x-ratelimit-"

_ID_LINE = re.compile(rb"^id(?::[^\r\n]*)?\r?\n", re.MULTILINE)
_COMMENTS = re.compile(rb"(?::[^\n]*\n|\r?\n)+")


class AnswerTooLargeError(ClientError):
    """The answer was given, and was too large to be kept."""

    status = HTTPStatus.CONFLICT
    code = "idempotent_answer_too_large"

    def __init__(self) -> None:
        super().__init__(
            "the answer to this Idempotency-Key was too large to be kept",
            hint="use another Idempotency-Key to have it generated anew",
        )


class Broadcast:
    """One answer, as it is written.

    Its public face is a `Responder`'s, for a client that never leaves.

    Args:
        bytes_max: of what is kept.
    """

    __slots__ = (
        "_base",
        "_bytes_max",
        "_event_count",
        "_kept",
        "_readers",
        "bytes_written",
        "closes",
        "cut",
        "ended",
        "gone",
        "headers",
        "is_stream",
        "is_whole",
        "on_disconnect",
        "on_failure",
        "on_write_pause",
        "started",
        "status",
        "too_large",
        "write_paused",
    )

    chunked = False  # it keeps events, not how they were framed

    def __init__(self, bytes_max: int = ANSWER_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._kept: bytes | bytearray = bytearray()
        self._base = 0  # bytes that were dropped before it
        self._event_count = 0
        self._readers: list[Reader] = []
        self.status = 0
        self.headers: Headers = []
        self.is_stream = False
        self.is_whole = False
        self.closes = False
        self.cut = False
        self.too_large = False
        self.bytes_written = 0
        self.started = False
        self.ended = False
        self.gone = False
        self.write_paused = False
        self.on_disconnect: Callable[[], object] | None = None
        self.on_write_pause: Callable[[bool], None] | None = None
        self.on_failure: Callable[[PenstockError], None] | None = None

    # -- the generation's side: as `Responder` --------------------------------------------------------

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Gives the whole answer."""
        self._head(status, headers)
        self.is_stream, self.is_whole = False, True
        self._kept = body
        self.bytes_written = len(body)
        self.too_large = len(body) > self._bytes_max
        self._end()
        self._begin_all()

    def start(self, status: int, headers: Headers) -> None:
        """Gives the head of an answer of unknown length."""
        self._head(status, headers)
        self._begin_all()

    def write(self, data: bytes) -> None:
        """Gives one piece of the answer; of a stream, whole events."""
        if self.is_stream:
            if data.startswith(b":") and _COMMENTS.fullmatch(data):
                self.comment(data)
                return
            data = self._numbered(data)
        self.bytes_written += len(data)
        self._kept += data
        if self.bytes_written > self._bytes_max:
            self.too_large = True
        self._pump_all()
        self._hold_back()

    def end(self, *, close: bool = False) -> None:
        """Ends the answer; with `close` it is not whole, and has told so."""
        self.closes = close
        self._end()
        self._pump_all()

    def break_off(self) -> None:
        """Ends the answer, so that each client sees that it is not whole."""
        if not self.ended:
            self.cut = True
            self._end()
            self._pump_all()

    def fail(self, error: PenstockError) -> None:
        """Lets the clients see that an answer that has begun is not whole, as befits what was begun."""
        if self.on_failure is not None:
            self.on_failure(error)
        else:
            self.break_off()

    # -- what becomes of it ---------------------------------------------------------------------------

    @property
    def is_final(self) -> bool:
        """Whether it is whole, and would be the same again."""
        whole = self.ended and not self.closes and not self.cut
        return whole and (200 <= self.status < 300 or self.status in _FINAL_REFUSALS)

    @property
    def is_spent(self) -> bool:
        """Whether it ended in a way that another try may better."""
        return self.ended and not self.is_final

    def answer(self) -> Answer | None:
        """What to keep of it; None where it is too large."""
        headers = tuple(self.headers_kept())
        head_bytes = sum(len(name) + len(value) for name, value in headers)
        if self.too_large or head_bytes > HEAD_BYTES_MAX:
            return None
        return Answer(self.status, headers, bytes(self._kept))

    def headers_kept(self) -> Headers:
        """The headers that belong to the answer, not to the request for which it was generated."""
        return [
            header
            for header in self.headers
            if header[0] not in _OF_THE_REQUEST and not header[0].startswith(_LIMITS)
        ]

    def play(self, answer: Answer) -> None:
        """Gives a stored answer."""
        self._head(answer.status, list(answer.headers))
        self.is_whole = not self.is_stream
        self._kept = answer.body
        self._event_count = _last_number(answer.body) if self.is_stream else 0
        self._end()
        self._begin_all()

    def refuse(self, error: PenstockError) -> None:
        """Has every reader raise `error`: there is no answer."""
        for reader in tuple(self._readers):
            reader.refuse(error)

    # -- the readers' side ----------------------------------------------------------------------------

    @property
    def is_read(self) -> bool:
        """Whether anybody is there."""
        return bool(self._readers)

    @property
    def size(self) -> int:
        """Where the next piece will begin."""
        return self._base + len(self._kept)

    def attach(self, reader: Reader) -> None:
        """Lets `reader` have the answer, from the beginning that it wants.

        Raises:
            AnswerTooLargeError: the beginning is gone.
        """
        if self.too_large:
            raise AnswerTooLargeError
        self._readers.append(reader)
        if self.started:
            reader.begin()

    def detach(self, reader: Reader) -> None:
        """Forgets `reader`."""
        if reader in self._readers:
            self._readers.remove(reader)
            self._hold_back()

    def elect(self) -> Reader | None:
        """The reader for whose request the answer is generated; those that wanted the rest of one are refused."""
        for reader in tuple(self._readers):
            if reader.after:
                reader.refuse(_nothing_to_resume())
        owner = next(iter(self._readers), None)
        if owner is not None:
            owner.owns = True
        return owner

    def comment(self, data: bytes = sse.COMMENT) -> None:
        """Breaks the silence for those who have nothing to read."""
        for reader in tuple(self._readers):
            reader.comment(data)

    def read(self, offset: int) -> bytes:
        """What is there from `offset` on, up to `PIECE_BYTES`."""
        start = offset - self._base
        with memoryview(self._kept) as view:
            return bytes(view[start : start + PIECE_BYTES])

    def whole(self) -> bytes:
        """All of an answer that is whole."""
        return bytes(self._kept)

    def offset_after(self, number: int) -> int | None:
        """Where what follows the event of this number begins; None where there is no such event."""
        if not number:
            return 0
        at = self._kept.find(b"\nid: %d\n" % (number + 1))
        if at >= 0:
            return self._base + at + 1
        return self.size if number == self._event_count else None

    def moved(self) -> None:
        """A reader has come further."""
        self._hold_back()

    def _head(self, status: int, headers: Headers) -> None:
        self.started = True
        self.status, self.headers = status, headers
        self.is_stream = 200 <= status < 300 and content_type(headers) == EVENT_STREAM

    def _begin_all(self) -> None:
        for reader in tuple(self._readers):
            reader.begin()

    def _pump_all(self) -> None:
        for reader in tuple(self._readers):
            reader.pump()

    def _end(self) -> None:
        self.ended = True
        self.on_disconnect = self.on_write_pause = self.on_failure = None

    def _numbered(self, events: bytes) -> bytes:
        numbered = []
        for event in sse.split_events(events) or [events]:
            text = event.lstrip(b"\r\n")
            if not text or (text.startswith(b":") and _COMMENTS.fullmatch(text)):
                continue
            if text.startswith(b"id") or b"\nid" in text:  # the engine counts as well
                text = _ID_LINE.sub(b"", text)
            self._event_count += 1
            numbered.append(b"id: %d\n%b" % (self._event_count, text))
        return b"".join(numbered)

    def _hold_back(self) -> None:
        """Of an answer that is not kept: drops what all have read, and holds the generation to the slowest."""
        if not self.too_large or self.ended:
            return
        slowest = min((reader.offset for reader in self._readers), default=self.size)
        if slowest - self._base >= PIECE_BYTES:
            assert isinstance(self._kept, bytearray)
            del self._kept[: slowest - self._base]
            self._base = slowest
        paused = self.size - slowest > WINDOW_BYTES
        if paused != self.write_paused:
            self.write_paused = paused
            if self.on_write_pause is not None:
                self.on_write_pause(paused)


def _last_number(events: bytes) -> int:
    """The number of the last of our events."""
    at = events.rfind(b"\nid: ") + 1
    number = events[at + len(b"id: ") : events.find(b"\n", at)]
    return int(number) if number.isdigit() else 0


def _nothing_to_resume() -> ClientError:
    return ClientError(
        "Last-Event-ID: the answer that it belongs to was not kept",
        code="nothing_to_resume",
        status=HTTPStatus.CONFLICT,
        param="Last-Event-ID",
        hint="leave it out to have the answer generated anew",
    )
