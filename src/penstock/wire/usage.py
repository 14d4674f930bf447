"""Token usage and the marks of an ending, as engines report them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

# A cheap filter: only events that pass it are parsed. In JSON text a quote inside a string is escaped, so
# none can be faked by what a model writes, but for an answer that is exactly one of the words.
NOTABLE_WORDS = (b'"usage"', b"[DONE]", b'"abort"', b'"error"')
NOTABLE = re.compile(
    rb'"usage"\s*:\s*\{|"abort"|^data: ?\[DONE\]|"error"\s*:|"object"\s*:\s*"error"', re.MULTILINE
)


# No engine counts further; what is outside would break the sums of metrics and ledgers.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class TokenCounts(msgspec.Struct):
    """OpenAI's `usage`; the Responses and Messages APIs call the same numbers input and output tokens."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None

    @property
    def prompt(self) -> int | None:
        """Tokens in."""
        return self.prompt_tokens if self.prompt_tokens is not None else self.input_tokens

    @property
    def completion(self) -> int | None:
        """Tokens out."""
        return self.completion_tokens if self.completion_tokens is not None else self.output_tokens


_NULL = msgspec.Raw(b"null")  # a `Raw | None` would be null alone: msgspec takes Raw for no type of its own


class _Part(msgspec.Struct):
    content: msgspec.Raw = _NULL
    reasoning_content: msgspec.Raw = _NULL
    reasoning: msgspec.Raw = _NULL
    tool_calls: msgspec.Raw = _NULL


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    text: str | None = None
    delta: _Part | None = None

    @property
    def has_token(self) -> bool:
        """Whether the event brings something that the model wrote."""
        if self.delta is None:
            return bool(self.text)
        part = self.delta
        parts = (part.content, part.reasoning_content, part.reasoning, part.tool_calls)
        return any(bytes(value) not in _NOTHING for value in parts)


_NOTHING = frozenset({b'""', b"null", b"[]"})


@dataclass(frozen=True, slots=True)
class Complaint:
    """What an engine says when it fails amid a stream; `status` is 500 where it names none."""

    message: str
    status: int = 500


class Notice(msgspec.Struct):
    """The members of a reply or an event that the gateway looks at."""

    usage: TokenCounts | None = None
    choices: list[_Choice] | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    code: Any = None
    response: Any = None

    @property
    def counts(self) -> TokenCounts | None:
        """The usage: its own, or that of the `response` or `message` in an event of those APIs."""
        if self.usage is not None:
            return self.usage
        for inner in (self.response, self.message):
            if isinstance(inner, dict) and isinstance(inner.get("usage"), dict):
                try:
                    return msgspec.convert(inner["usage"], TokenCounts)
                except ValueError:
                    return None
        return None

    @property
    def has_token(self) -> bool:
        """Whether an event of a completion brings something that the model wrote."""
        return any(choice.has_token for choice in self.choices or ())

    @property
    def only_usage(self) -> bool:
        """Whether an event carries the usage and nothing else."""
        return self.usage is not None and self.choices == []

    @property
    def complaint(self) -> Complaint | None:
        """The failure that the event tells of: `{"error": {...}}`, `{"error": "..."}` or `{"object": "error"}`."""
        if self.object == "error":
            return _complaint(self.message, self.code)
        if self.error is None:
            return None
        if isinstance(self.error, dict):
            return _complaint(self.error.get("message"), self.error.get("code"))
        return _complaint(self.error, None)

    @property
    def aborted(self) -> bool:
        """Whether the engine gave up, which vLLM tells by a finish reason that is no ending."""
        return any(choice.finish_reason == "abort" for choice in self.choices or ())


_NOTICE: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Notice)


def read_notice(data: bytes) -> Notice:
    """What a JSON reply or the data of an event says; nothing where it is no such JSON."""
    try:
        notice: Notice = _NOTICE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Notice()
    return notice


def usage_at_end(tail: bytes) -> TokenCounts | None:
    """The usage in the last bytes of a JSON reply, where engines put it; None where it is not there."""
    _, found, rest = tail.rpartition(b'"usage"')
    text = rest.decode(errors="replace").lstrip()
    if not found or not text.startswith(":"):
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(text[1:].lstrip())
        return msgspec.convert(usage, TokenCounts | None)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return None


def _complaint(text: object, status: object) -> Complaint:
    return Complaint(
        text if isinstance(text, str) and text else "it does not say why",
        status if isinstance(status, int) and 400 <= status <= 599 else 500,
    )
