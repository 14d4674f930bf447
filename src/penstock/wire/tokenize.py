"""How an engine is asked how many tokens a text is, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How an API counts the tokens of a text.

    Args:
        path: of the request.
        texts: the members of its body that hold the text.
        whole: the members by which special tokens are added, as at the beginning of a prompt; set to false.
    """

    path: str = "/tokenize"
    texts: tuple[str, ...] = ("prompt",)
    whole: tuple[str, ...] = ("add_special_tokens",)

    def body(self, model: str, text: str) -> bytes:
        """The request's body."""
        members: dict[str, object] = {"model": model}
        members.update(dict.fromkeys(self.texts, text))
        members.update(dict.fromkeys(self.whole, False))
        return msgspec.json.encode(members)


class _Reply(msgspec.Struct):
    tokens: list[msgspec.Raw]


_REPLY = msgspec.json.Decoder(_Reply)


def tokens_in(reply: bytes) -> int | None:
    """How many tokens a reply tells of; None where it tells of none: no text that was delivered has none."""
    try:
        return len(_REPLY.decode(reply).tokens) or None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
