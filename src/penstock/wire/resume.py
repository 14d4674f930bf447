"""The request for the rest of an answer: as it was, with what was delivered behind it, and asking for less."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import msgspec

from penstock.wire.openai import CHAT
from penstock.wire.splice import insert_member, replace_member
from penstock.wire.tokenize import Tokenizer

# How far a greedy answer is cut back to where its text falls into the same tokens again.
CUT_BACK_CHARS_MAX = 200

# Behind a word that is followed by one space and a further sign: no tokenizer joins a word with the next one.
_BOUNDARY = re.compile(r"[^\W_](?= \S)")

_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_MEMBERS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MESSAGES: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Manner:
    """How an API is asked to go on with a chat's last message. A text completion just gets a longer prompt.

    Args:
        members: what to set in the body, as JSON text.
        joins: it goes on with a last message of the assistant by itself, and there can be one of those only.
        completion_tokens: how many a text completion has that says no limit; None for as many as fit.
        tokenizer: counts the tokens of what was delivered, since one event may hold several; None where it has none.
    """

    members: tuple[tuple[str, bytes], ...] = field(default=())
    joins: bool = False
    completion_tokens: int | None = None
    tokenizer: Tokenizer | None = None


class _Message(msgspec.Struct):
    role: str
    content: Any = None


def members(body: bytes, names: Collection[str]) -> dict[str, Any]:
    """Those members of the object in `body` that `names` has, and that are not null.

    Raises:
        ValueError: `body` is no JSON object, or one of them can't be read.
    """
    found = {name: msgspec.json.decode(raw) for name, raw in _MEMBERS.decode(body).items() if name in names}
    return {name: value for name, value in found.items() if value is not None}


def completion_tokens_max(asked: dict[str, Any]) -> int | None:
    """The smallest limit on the answer's tokens among these members; None where there is none."""
    limits = [value for value in map(asked.get, _LIMITS) if _is_count(value)]
    return min(limits, default=None)


def completion_tokens_max_of(present: dict[str, msgspec.Raw]) -> int | None:
    """As `completion_tokens_max`, of members as they came."""
    return completion_tokens_max(
        {name: msgspec.json.decode(present[name]) for name in _LIMITS if name in present}
    )


def safe_cut(text: str, recent_chars: int) -> int | None:
    """Where to cut `text` so that what is before it falls into the same tokens again.

    Args:
        recent_chars: how much of its end may be cut off, beside `CUT_BACK_CHARS_MAX`.

    Returns:
        The length of what is kept; 0 where all of it may be cut off and must be; None where there is no such place.
    """
    earliest = max(0, len(text) - min(CUT_BACK_CHARS_MAX, recent_chars))
    cut = None
    for found in _BOUNDARY.finditer(text, earliest):
        cut = found.end()
    return 0 if cut is None and not earliest else cut


def continued(route: str, body: bytes, text: str, tokens: int, manner: Manner) -> bytes:
    """The request in `body` for what comes after `text`; every other byte as it was.

    Args:
        body: of a request that was accepted once.
        text: of the answer, to go on with; empty for the same request again.
        tokens: of `text`, by which the limits on the answer's tokens are lowered.

    Raises:
        ValueError: its messages or its prompt can't be continued.
    """
    present = _MEMBERS.decode(body)
    for name in (*_LIMITS, "min_tokens"):
        value = msgspec.json.decode(present[name]) if name in present else None
        if _is_count(value):
            body = replace_member(body, name, b"%d" % max(0, value - tokens))
    if route != CHAT and manner.completion_tokens is not None and completion_tokens_max_of(present) is None:
        body = insert_member(body, "max_tokens", b"%d" % max(0, manner.completion_tokens - tokens))
    if not text:
        return body
    if route != CHAT:
        prompt = msgspec.json.decode(present["prompt"])
        if not isinstance(prompt, str):
            raise ValueError("a prompt that is not one text")
        return replace_member(body, "prompt", msgspec.json.encode(prompt + text))
    joins = manner.joins or bytes(present.get("continue_final_message", b"")).strip() == b"true"
    body = replace_member(body, "messages", _messages(bytes(present["messages"]), text, joins=joins))
    for name, json in manner.members:
        body = replace_member(body, name, json) if name in present else insert_member(body, name, json)
    return body


def _messages(messages: bytes, text: str, *, joins: bool) -> bytes:
    """The messages with `text` as the assistant's last; behind what it said already, where it `joins`."""
    raw = _MESSAGES.decode(messages)
    last = msgspec.json.decode(raw[-1], type=_Message)
    if joins and last.role == "assistant":
        message = replace_member(bytes(raw[-1]), "content", msgspec.json.encode(_joined(last.content, text)))
        return messages[: messages.rindex(bytes(raw[-1]))] + message + b"]"
    message = msgspec.json.encode({"role": "assistant", "content": text})
    return b"%b,%b]" % (messages.rstrip()[:-1].rstrip(), message)


def _joined(content: Any, text: str) -> Any:
    if isinstance(content, str):
        return content + text
    if isinstance(content, list) and content and isinstance(content[-1], dict):
        part = content[-1]
        if isinstance(part.get("text"), str):
            return [*content[:-1], {**part, "text": part["text"] + text}]
    raise ValueError("a last message that is not text")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
