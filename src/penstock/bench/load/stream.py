"""What is noted of one answer while it arrives: pure, told bytes and the time of the read that brought them.

One read is one time, however many events it holds. Every event is decoded once, into the few members that count;
msgspec does that in a third of a microsecond, faster than a search for words, and is never misled by a text.
A body of the wrong kind is noted as what it is.
"""

from __future__ import annotations

import zlib
from array import array
from typing import Any

from penstock.bench.load.chunks import Choice, Usage, complaint, excerpt, is_html, read_chunk
from penstock.bench.sample import Cause, Sample
from penstock.engines.exchange import Headers
from penstock.wire.sse import EventFramer, EventTooLargeError, event_data, split_events

# An answer that is read whole, which a stream is not: as much as any model writes.
WHOLE_BYTES_MAX = 4 * 1024 * 1024
# A server that compresses can make much of little; one read of ours is 256 KB at most.
INFLATED_BYTES_MAX = 16 * 1024 * 1024

# Digits of a chunk's time that are kept, seconds: a tenth of a microsecond, at half the room on the disk.
CHUNK_DIGITS = 7

# zlib finds out by the header whether it is gzip's or its own.
_ANY_HEADER = 47
_AS_IT_IS = (b"", b"identity")


class Answer:
    """What has been noted of an answer so far.

    Args:
        streamed: whether a stream was asked for.
        keep_text: whether the text is kept, and not only counted.

    Attributes:
        over: what is still to come does not count: the end mark has come, or the answer is past mending.
        events: server-sent events read.
        cause, detail: what is wrong with it, if anything.
    """

    __slots__ = (
        "_answer_s",
        "_body",
        "_byte_s",
        "_bytes",
        "_chunk_s",
        "_chunk_tokens",
        "_counted",
        "_done_s",
        "_feed",
        "_finished",
        "_framer",
        "_inflate",
        "_status",
        "_streamed",
        "_text",
        "_usage",
        "cause",
        "detail",
        "events",
        "over",
    )

    def __init__(self, *, streamed: bool = True, keep_text: bool = False) -> None:
        self.over = False
        self.events = 0
        self.cause = Cause.NONE
        self.detail = ""
        self._streamed = streamed
        self._text: list[str] | None = [] if keep_text else None
        self._status = 0
        self._bytes = 0
        self._byte_s: float | None = None
        self._answer_s: float | None = None
        self._done_s: float | None = None
        self._chunk_s: array[float] = array("d")
        self._chunk_tokens: array[int] | None = None
        self._counted = 0
        self._finished = False
        self._usage: Usage | None = None
        self._framer = EventFramer()
        self._body: bytearray | None = None
        self._inflate: Any = None
        self._feed = Answer._sniff

    @property
    def chunks(self) -> int:
        """Chunks with content so far."""
        return len(self._chunk_s)

    # -- as it arrives ------------------------------------------------------------------------------

    def begin(self, status: int, headers: Headers) -> None:
        """The head has come."""
        self._status = status
        fields = dict(headers)
        if not 200 <= status < 300:
            self._refuse(status, fields.get(b"location", b""))
        elif fields.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._feed = Answer._read_events
        encoding = fields.get(b"content-encoding", b"").strip().lower()
        if encoding in (b"gzip", b"x-gzip", b"deflate"):
            self._inflate = zlib.decompressobj(_ANY_HEADER)
        elif encoding not in _AS_IT_IS:
            self._fail(Cause.MALFORMED, f"content-encoding {excerpt(encoding)}, which was not asked for")

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes of the body, read at `now_s` seconds."""
        self._bytes += len(data)
        if self._byte_s is None:
            self._byte_s = now_s
        if self.over:
            return
        if self._inflate is not None:
            data = self._inflated(data)
        if data:
            self._feed(self, data, now_s)

    def end(self, now_s: float) -> None:
        """The body is whole: what is missing in it is missing for good."""
        if self._body is not None:
            self._read_whole(bytes(self._body), now_s)
        elif self.over:
            return
        elif self._byte_s is None:
            self._fail(Cause.INCOMPLETE, "an empty answer")
        elif self._framer.rest:
            self._fail(Cause.INCOMPLETE, f"it ended amid an event: {excerpt(self._framer.rest)}")
        elif not self._finished:
            self._fail(Cause.INCOMPLETE, "it ended without [DONE] or a finish_reason")

    def fill(self, sample: Sample) -> None:
        """Writes what was noted into `sample`."""
        sample.status, sample.cause, sample.detail = self._status, self.cause, self.detail
        sample.response_bytes = self._bytes
        sample.first_byte_s, sample.first_answer_s, sample.done_s = self._byte_s, self._answer_s, self._done_s
        sample.chunk_s = [round(time_s, CHUNK_DIGITS) for time_s in self._chunk_s]
        if self._chunk_s:
            sample.first_token_s, sample.last_token_s = self._chunk_s[0], self._chunk_s[-1]
        if self._chunk_tokens is not None and len(self._chunk_tokens) == len(sample.chunk_s):
            sample.chunk_tokens = self._chunk_tokens.tolist()
        if self._text is not None:
            sample.answer = "".join(self._text)
        self._fill_counts(sample)

    def _fill_counts(self, sample: Sample) -> None:
        usage = self._usage
        if usage is not None:
            sample.prompt_tokens, sample.cached_tokens = usage.prompt_tokens, usage.cached
            sample.reasoning_tokens = usage.reasoning
        if usage is not None and usage.completion_tokens is not None:
            sample.completion_tokens, sample.tokens_from = usage.completion_tokens, "usage"
        elif sample.chunk_s:
            sample.completion_tokens, sample.tokens_from = len(sample.chunk_s), "chunks"

    # -- bodies -------------------------------------------------------------------------------------

    def _inflated(self, data: bytes) -> bytes:
        try:
            inflated: bytes = self._inflate.decompress(data, INFLATED_BYTES_MAX)
        except zlib.error as error:
            self._fail(Cause.MALFORMED, f"its compression is broken: {error}")
            return b""
        if self._inflate.unconsumed_tail:
            self._fail(Cause.MALFORMED, f"one read of it inflates to more than {INFLATED_BYTES_MAX} bytes")
        return inflated

    def _refuse(self, status: int, location: bytes) -> None:
        """An answer that is none: what it says is read whole, to say it on."""
        self._body, self._feed = bytearray(), Answer._collect
        if status < 400:
            self.cause, self.detail = Cause.MALFORMED, f"{status}, on to {excerpt(location) or 'nowhere'}"
        elif status == 429:
            self.cause = Cause.RATE_LIMITED
        else:
            self.cause = Cause.CLIENT_ERROR if status < 500 else Cause.SERVER_ERROR

    def _sniff(self, data: bytes, now_s: float) -> None:
        """The beginning of a body that does not say what it is."""
        if data.lstrip()[:1] in (b"{", b"[", b"<"):
            self._body, self._feed = bytearray(), Answer._collect
        else:
            self._feed = Answer._read_events
        self._feed(self, data, now_s)

    def _collect(self, data: bytes, now_s: float) -> None:  # noqa: ARG002 - one kind of reader of several
        assert self._body is not None
        self._body += data
        if len(self._body) > WHOLE_BYTES_MAX:
            self._fail(Cause.MALFORMED, f"it is larger than {WHOLE_BYTES_MAX} bytes, and no stream")

    def _read_whole(self, body: bytes, now_s: float) -> None:
        if self.cause is not Cause.NONE:
            self.detail = self.detail or complaint(body)
            return
        try:
            chunk = read_chunk(body)
        except ValueError as error:
            what = complaint(body) if is_html(body) else f"no JSON of an answer: {error}: {excerpt(body)}"
            self._fail(Cause.MALFORMED, what)
            return
        self._usage = chunk.usage
        if not chunk.choices:
            self._fail(Cause.ERROR_EVENT if chunk.error else Cause.MALFORMED, complaint(body))
            return
        self._done_s = now_s
        if self._text is not None:
            self._text += [choice.thought + choice.answer for choice in chunk.choices]
        if self._streamed:
            self._fail(Cause.NOT_STREAMED, "the whole answer came at once, where a stream was asked for")

    # -- events -------------------------------------------------------------------------------------

    def _read_events(self, data: bytes, now_s: float) -> None:
        try:
            whole = self._framer.feed(data)
        except EventTooLargeError as error:
            self._fail(Cause.MALFORMED, str(error))
            return
        for event in whole.split(b"\n\n") if b"\r" not in whole else split_events(whole):
            if self.over:
                return
            if event.startswith(b"data: {") and b"\n" not in event:
                self.events += 1
                self._read_chunk(event[6:], now_s)
            elif event:
                self._read_other(event, now_s)

    def _read_other(self, event: bytes, now_s: float) -> None:
        """An event that is not one line of JSON: a comment, the end mark, several lines, llama.cpp's `error:`."""
        data = event_data(event).strip()
        if data:
            self.events += 1
        if data == b"[DONE]":
            self.over = True
            self._done_s = now_s
        elif data:
            self._read_chunk(data, now_s)
        elif event.startswith(b"error:"):
            self._fail(Cause.ERROR_EVENT, complaint(event.removeprefix(b"error:").strip()))
        elif is_html(event):
            self._fail(Cause.MALFORMED, complaint(event))

    def _read_chunk(self, data: bytes, now_s: float) -> None:
        try:
            chunk = read_chunk(data)
        except ValueError as error:
            self._fail(Cause.MALFORMED, f"an event is no JSON of a chunk: {error}: {excerpt(data)}")
            return
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.choices:
            self._read_choices(chunk.choices, chunk.usage, now_s)
        elif chunk.error is not None or chunk.object == "error":
            self._fail(Cause.ERROR_EVENT, complaint(data))

    def _read_choices(self, choices: list[Choice], usage: Usage | None, now_s: float) -> None:
        has_content = False
        for choice in choices:
            answer = choice.answer
            thought = choice.thought
            if answer or thought or choice.calls:
                has_content = True
                if self._answer_s is None and not thought:
                    self._answer_s = now_s
                if self._text is not None:
                    self._text.append(thought + answer)
            if choice.finish_reason:  # some servers say an empty one all along
                self._finished = True
                if choice.finish_reason in (
                    "abort",
                    "error",
                ):  # no ending: vLLM, SGLang and OpenRouter gave up
                    self._fail(Cause.ERROR_EVENT, f"finish_reason {choice.finish_reason}")
        if has_content:
            self._chunk_s.append(now_s)
            if usage is not None and usage.completion_tokens is not None:
                self._count_tokens(usage.completion_tokens)

    def _count_tokens(self, so_far: int) -> None:
        """A running count came with a chunk, as vLLM's `continuous_usage_stats` sends it."""
        if self._chunk_tokens is None:
            self._chunk_tokens = array("q")
        self._chunk_tokens.append(so_far - self._counted)
        self._counted = so_far

    def _fail(self, cause: Cause, detail: str) -> None:
        if self.cause is Cause.NONE:
            self.cause, self.detail = cause, detail
        self.over = True
