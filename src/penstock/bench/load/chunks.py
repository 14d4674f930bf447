"""The members of an answer that the load tester looks at, as the APIs of chat and plain completions send them."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock.wire.usage import read_notice

# Enough of an error to know it by.
DETAIL_LEN_MAX = 300

_TITLE = re.compile(rb"<(?:title|h1)[^>]*>\s*([^<]+)", re.IGNORECASE)


class Details(msgspec.Struct, gc=False):
    """Parts of a token count."""

    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """OpenAI's `usage`, with the parts that engines tell."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None

    @property
    def cached(self) -> int | None:
        """Tokens of the prompt that were in the prefix cache."""
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None

    @property
    def reasoning(self) -> int | None:
        """Tokens of the completion that were reasoning."""
        if self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens is not None:
            return self.completion_tokens_details.reasoning_tokens
        return self.reasoning_tokens


class Part(msgspec.Struct, gc=False):
    """What a chunk adds, by all the names that engines have for reasoning; Mistral's comes as a list of parts."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: Any = None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk or of a whole answer; `text` is that of the plain completions."""

    finish_reason: str | None = None
    text: str | None = None
    delta: Part | None = None
    message: Part | None = None

    @property
    def answer(self) -> str:
        """What it says, but for reasoning."""
        part = self.delta or self.message
        if part is None:
            return self.text or ""
        if isinstance(part.content, list):
            return _joined(part.content, "text")
        return part.content or part.refusal or ""

    @property
    def calls(self) -> bool:
        """Whether it brings a part of a tool's call, which is of the answer but no text."""
        part = self.delta or self.message
        return part is not None and bool(part.tool_calls)

    @property
    def thought(self) -> str:
        """The reasoning that it brings."""
        part = self.delta or self.message
        if part is None:
            return ""
        if isinstance(part.content, list):
            return _joined(part.content, "thinking")
        return part.reasoning_content or part.reasoning or ""


def _joined(parts: list[Any], kind: str) -> str:
    """The text of those parts of a content that are of a kind; thinking is a list of text parts itself."""
    said = [part.get(kind) for part in parts if isinstance(part, dict) and part.get("type") == kind]
    return "".join(text if isinstance(text, str) else _joined(text or [], "text") for text in said)


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream, or a whole answer."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None


_DECODER = msgspec.json.Decoder(Chunk)


def read_chunk(data: bytes) -> Chunk:
    """The chunk that `data` holds.

    Raises:
        ValueError: it is no such JSON.
    """
    try:
        return _DECODER.decode(data)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def complaint(data: bytes) -> str:
    """What the body of an error, or an event that tells of one, says; as it is where it is of no known shape."""
    told = read_notice(data).complaint
    if told is not None:
        return told.message[:DETAIL_LEN_MAX]
    if is_html(data):
        title = _TITLE.search(data)
        return "an HTML page" + (f": {excerpt(title[1])}" if title else "")
    return excerpt(data)


def is_html(data: bytes) -> bool:
    """Whether a body is a page for people."""
    return data.lstrip()[:1] == b"<"


def excerpt(data: bytes) -> str:
    """The beginning of `data` on one line."""
    return " ".join(data[: 2 * DETAIL_LEN_MAX].decode(errors="replace").split())[:DETAIL_LEN_MAX]
