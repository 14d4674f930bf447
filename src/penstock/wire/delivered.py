"""What a client has of a streamed answer, remembered so cheaply that every stream can be remembered.

Events of one stream differ in their text alone: of one that is framed as those before were, `add` keeps the text,
and that it is so framed tells the relay what it wants to know of it. Other events are kept whole by `keep`, until
there are enough of them; then `compact` cuts out what is between two texts, or parses them, event by event.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.wire.sse import event_data, split_events

# Reads that wait to be made into text, one event each as a rule: some 2 KB. Fewer would cost more for each.
RAW_READS_MAX = 8
# Texts of single events that wait to be joined: some 1 KB.
TEXTS_MAX = 20
# One this large is made into text at once.
READ_BYTES_MAX = 1024
# An answer larger than this is not remembered: no engine's context holds it.
TEXT_BYTES_MAX = 1024 * 1024
# Of so many times that text was made, the texts of single events are kept apart, in order to count the tokens of an
# answer's last words.
RECENT_MAX = 4

_NULL = msgspec.Raw(b"null")
_NOTHING = frozenset({b'""', b"null", b"[]"})
_TEXT = re.compile(rb'"(?:content|text)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_STRING: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    tool_calls: msgspec.Raw = _NULL
    function_call: msgspec.Raw = _NULL
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    refusal: msgspec.Raw = _NULL
    audio: msgspec.Raw = _NULL

    @property
    def obstacle(self) -> str:
        """A member that holds something other than text; empty where none does."""
        names = ("tool_calls", "function_call", "reasoning_content", "reasoning", "refusal", "audio")
        return next((name for name in names if bytes(getattr(self, name)) not in _NOTHING), "")


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: msgspec.Raw = _NULL
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event of a streamed completion."""

    id: str | None = None
    created: Any = None
    choices: list[_Choice] = []
    usage: msgspec.Raw = _NULL

    @property
    def text(self) -> str:
        """What the model wrote."""
        return "".join(
            (choice.delta.content if choice.delta else choice.text) or "" for choice in self.choices
        )

    @property
    def role(self) -> bool:
        """Whether it says who speaks."""
        return any(choice.delta is not None and choice.delta.role is not None for choice in self.choices)

    @property
    def finish_reason(self) -> str | None:
        """How the answer ended, where it did."""
        return next((choice.finish_reason for choice in self.choices if choice.finish_reason), None)

    @property
    def obstacle(self) -> str:
        """What it holds that is not the text of one answer; empty where it is only that."""
        for choice in self.choices:
            if choice.index:
                return "several choices"
            if bytes(choice.logprobs) not in _NOTHING:
                return "logprobs"
            if choice.delta is not None and choice.delta.obstacle:
                return choice.delta.obstacle
        return ""


_CHUNK: msgspec.json.Decoder[Chunk] = msgspec.json.Decoder(Chunk)


def read_chunk(data: bytes) -> Chunk | None:
    """The chunk in the data of an event; None where it is none."""
    try:
        return _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was delivered.

    Args:
        text: all that the model wrote.
        tokens: of it, counted by events, and by words where one event brings several.
        recent: the texts of the last events, together an end of `text`.
        id: of the stream's chunks, None where they have none; as is `created`.
        role: the chunk that says who speaks was among it.
        finish_reason: how the answer ended, where the client knows.
        obstacle: what was delivered besides text; empty where nothing was.
        joined: whether tokens were counted by words, of which each has one at least.
    """

    text: str
    tokens: int
    recent: tuple[str, ...]
    id: str | None
    created: Any
    role: bool
    finish_reason: str | None
    obstacle: str
    joined: bool = False


class Delivered:
    """Remembers what was delivered of one answer: each read by `add`, or where that does not take it by `keep`."""

    __slots__ = (
        "_before",
        "_behind",
        "_behind_chunk",
        "_created",
        "_finish",
        "_id",
        "_joined",
        "_recent",
        "_role",
        "_text",
        "_texts",
        "_tokens",
        "obstacle",
        "raw",
    )

    def __init__(self) -> None:
        self.raw: list[bytes] = []  # earlier than what is in `_texts`
        self.obstacle = ""
        self._texts: list[bytes] = []
        self._text = bytearray()  # the inside of a JSON string
        self._recent: list[bytes] = []  # each event's by a line feed, which JSON has none of
        self._tokens = 0
        self._joined = False
        self._before = b""  # what is before a text, and behind it; empty while that is not known
        self._behind = b""
        self._behind_chunk = b""  # and behind the end of the chunk that holds it
        self._id: str | None = None
        self._created: Any = None
        self._role = False
        self._finish: str | None = None

    def add(self, chunk: bytes, size: int) -> bool:
        """Remembers a chunk where it is one event that differs from earlier ones in nothing but its text.

        Args:
            chunk: with its framing, of HTTP/1.1.
            size: of what is in it, bytes.

        Returns:
            Whether it is. It then brings a token, as they did, and tells nothing that they did not tell.
        """
        before, behind = self._before, self._behind_chunk
        begin = len(chunk) - size - 2
        if not before or not chunk.startswith(before, begin) or not chunk.endswith(behind):
            return False
        text = chunk[begin + len(before) : -len(behind)]
        if b'"' in text or b"\n" in text or size + 2 < len(before) + len(behind):
            return False  # another member, or another event
        self._texts.append(text)
        if len(self._texts) > TEXTS_MAX or size > READ_BYTES_MAX:
            self.compact()
        return True

    def keep(self, events: bytes) -> None:
        """Remembers whole events of any kind."""
        if self._texts:
            self.compact()
        self.raw.append(events)
        if len(self.raw) > RAW_READS_MAX or len(events) > READ_BYTES_MAX:
            self.compact()

    def compact(self) -> None:
        """Makes one text of all that waits; `obstacle` then says what else there was."""
        if self.raw:
            texts = self._texts_between(self.raw)
            if texts is None:  # some are not as the ones before
                texts = [text for read in self.raw for text in self._texts_of(read)]
            self.raw.clear()
            self._join(texts)
        if self._texts:
            texts, self._texts = self._texts, []
            if not _is_text(b"".join(texts)):
                self.obstacle = self.obstacle or "an event that is no chunk"
                return
            self._join(texts)

    def _join(self, texts: list[bytes]) -> None:
        if b"" in texts:
            texts = [text for text in texts if text]
        text = b"".join(texts)
        if _single(text, len(texts)):
            self._tokens += len(texts)
        else:
            self._tokens += _words(texts)
            self._joined = True
        self._text += text
        self._recent.append(b"\n".join(texts))
        del self._recent[:-RECENT_MAX]
        if len(self._text) > TEXT_BYTES_MAX:
            self.obstacle = "its length"

    def answer(self) -> Answer:
        """All that was delivered until now."""
        self.compact()
        return Answer(
            text=json.loads(b'"%b"' % bytes(self._text)),
            tokens=self._tokens,
            recent=tuple(
                json.loads(b'"%b"' % text) for text in b"\n".join(self._recent).split(b"\n") if text
            ),
            id=self._id,
            created=self._created,
            role=self._role,
            finish_reason=self._finish,
            obstacle=self.obstacle,
            joined=self._joined,
        )

    def _texts_of(self, read: bytes) -> list[bytes]:
        texts = self._texts_between([read])
        return self._parsed(read) if texts is None else texts

    def _texts_between(self, reads: list[bytes]) -> list[bytes] | None:
        """The texts of events that have the known frame, all of them; None where one has not."""
        before, behind = self._before, self._behind
        if not before:
            return None
        between = behind + before
        begin, end = len(before), -len(behind)
        texts = [read[begin:end] for read in reads]  # one event each, most of the time; split would cost more
        if before + between.join(texts) + behind != b"".join(reads):
            return None
        if _is_text(b"".join(texts)):
            return texts
        texts = [text for several in texts for text in several.split(between)]
        return texts if _is_text(b"".join(texts)) else None

    def _parsed(self, raw: bytes) -> list[bytes]:
        texts = []
        for event in split_events(raw):
            data = event_data(event)
            if not data or data == b"[DONE]":
                continue
            chunk = read_chunk(data)
            if chunk is None:
                self.obstacle = self.obstacle or "an event that is no chunk"
                continue
            self._note(chunk)
            if chunk.text:
                texts.append(msgspec.json.encode(chunk.text)[1:-1])
                if not (chunk.role or chunk.finish_reason):
                    self._before, self._behind = _frame(event) or (self._before, self._behind)
                    self._behind_chunk = self._behind + b"\r\n"
        return texts

    def _note(self, chunk: Chunk) -> None:
        if self._id is None:
            self._id = chunk.id
        if self._created is None:
            self._created = chunk.created
        self._role = self._role or chunk.role
        self._finish = self._finish or chunk.finish_reason
        self.obstacle = self.obstacle or chunk.obstacle


def _frame(event: bytes) -> tuple[bytes, bytes] | None:
    """What is before and behind the text of `event`."""
    found = _TEXT.search(event)
    if found is None:
        return None
    return event[: found.start(1)], event[found.end(1) :]


def _is_text(inside: bytes) -> bool:
    """Whether this is the inside of one JSON string; a quote, and so any other member, is no part of it."""
    try:
        _STRING.decode(b'"%b"' % inside)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _single(text: bytes, events: int) -> bool:
    """Whether so many events brought one word each; the first may have no space before it."""
    spaces = text.count(b" ")
    return spaces < events or (spaces == events and text.startswith(b" "))


def _words(texts: list[bytes]) -> int:
    """The tokens of events that bring several words each: as many as those, at least."""
    return sum(len(text.split()) or 1 for text in texts)
