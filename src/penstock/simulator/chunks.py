"""Replies of the simulated engine as bytes, in vLLM's shapes, byte for byte ready for the socket.

All that a stream's chunks have in common is made once; a token then costs one concatenation.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock.simulator.bodies import Ask

_DELTA_MAX = 8  # longer than any single token's text


def _plain_json(value: object) -> bytes:
    return msgspec.json.encode(value)


def framed(payload: bytes) -> bytes:
    """One piece of a chunked HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def unframed(payload: bytes) -> bytes:
    """The same for an HTTP/1.0 client, whose reply ends with the connection."""
    return payload


class StreamFormat:
    """The events of one stream.

    Args:
        ask: what was asked for.
        reply_id: `id` of each chunk.
        created_at: seconds since the epoch.
        model: `model` of each chunk.
        frame: `framed` or `unframed`.
    """

    __slots__ = ("_ask", "_frame", "_head", "_opening", "_prefixes", "_suffix", "_tail")

    def __init__(
        self, ask: Ask, reply_id: str, created_at: int, model: str, frame: Callable[[bytes], bytes]
    ) -> None:
        kind = "chat.completion.chunk" if ask.chat else "text_completion"
        opening = _plain_json({"id": reply_id, "object": kind, "created": created_at, "model": model})
        self._ask = ask
        self._frame = frame
        self._opening = b"data: " + opening[:-1] + b',"choices":['
        self._head = self._opening + (
            b'{"index":0,"delta":{"content":"' if ask.chat else b'{"index":0,"text":"'
        )
        if ask.chat:
            self._tail = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        else:
            self._tail = b'","logprobs":null,"finish_reason":null,"stop_reason":null,"token_ids":null}]}\n\n'
        if frame is framed:
            fixed = len(self._head) + len(self._tail)
            self._prefixes = [b"%x\r\n%b" % (fixed + n, self._head) for n in range(_DELTA_MAX)]
            self._suffix = self._tail + b"\r\n"
        else:
            self._prefixes = [self._head] * _DELTA_MAX
            self._suffix = self._tail

    @property
    def prefixes(self) -> list[bytes]:
        """What goes before the text of one token, by the length of that text."""
        return self._prefixes

    @property
    def suffix(self) -> bytes:
        """What goes after the text of one token."""
        return self._suffix

    def role(self) -> bytes:
        """The first chunk of a chat; nothing for a completion."""
        if not self._ask.chat:
            return b""
        choice = {
            "index": 0,
            "delta": {"role": self._ask.role, "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        more: dict[str, Any] = {}
        if self._ask.return_token_ids:
            more["prompt_token_ids"] = token_ids_of(self._ask.prompt)
        return self._chunk(choice, more)

    def tokens(
        self,
        deltas: Sequence[bytes],
        tokens: Sequence[bytes],
        finish_reason: str | None = None,
        stop_reason: str | None = None,
        *,
        broken: bool = False,
    ) -> bytes:
        """A chunk of any number of tokens; the last one of a stream has a `finish_reason`.

        Args:
            deltas: their texts.
            tokens: the tokens themselves.
            finish_reason: "stop", "length" or "abort".
            stop_reason: the stop text found.
            broken: the JSON is cut off in the middle.
        """
        text = b"".join(deltas).decode("ascii")
        choice: dict[str, Any] = {"index": 0}
        choice.update({"delta": {"content": text}} if self._ask.chat else {"text": text})
        choice.update({"logprobs": None, "finish_reason": finish_reason})
        if finish_reason is not None or not self._ask.chat:
            choice["stop_reason"] = stop_reason
        choice["token_ids"] = token_ids_of(tokens) if self._ask.return_token_ids else None
        if broken:
            payload = self._opening + _plain_json(choice)
            return self._frame(payload[: len(payload) * 3 // 4] + b"\n\n")
        return self._chunk(choice, {})

    def usage(self, completion_tokens: int) -> bytes:
        """The chunk that carries only usage."""
        usage = usage_of(len(self._ask.prompt), completion_tokens)
        return self._frame(self._opening + b'],"usage":' + _plain_json(usage) + b"}\n\n")

    def done(self) -> bytes:
        """The end mark, and the end of the body."""
        return self._frame(b"data: [DONE]\n\n") + (b"0\r\n\r\n" if self._frame is framed else b"")

    def _chunk(self, choice: dict[str, Any], more: dict[str, Any]) -> bytes:
        end = b"]" + (b"," + _plain_json(more)[1:] if more else b"}")
        return self._frame(self._opening + _plain_json(choice) + end + b"\n\n")


def token_ids_of(tokens: Sequence[bytes]) -> list[int]:
    """The ids of tokens; the one that ends the text is 0."""
    return [int.from_bytes(token, "big") for token in tokens]


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
    }


def plain_body(
    ask: Ask,
    reply_id: str,
    created_at: int,
    model: str,
    deltas: Sequence[bytes],
    tokens: Sequence[bytes],
    finish_reason: str,
    stop_reason: str | None,
    *,
    usage: bool = True,
) -> bytes:
    """A whole reply that is not streamed; see `StreamFormat` for the arguments.

    Args:
        usage: whether it has its `usage`.
    """
    text = b"".join(deltas).decode("ascii")
    choice: dict[str, Any] = {"index": 0}
    if ask.chat:
        choice["message"] = {"role": ask.role, "content": text, "refusal": None, "tool_calls": []}
    else:
        choice["text"] = text
    choice.update({"logprobs": None, "finish_reason": finish_reason, "stop_reason": stop_reason})
    choice["token_ids"] = token_ids_of(tokens) if ask.return_token_ids else None
    body: dict[str, Any] = {
        "id": reply_id,
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": created_at,
        "model": model,
        "choices": [choice],
    }
    if usage:
        body["usage"] = usage_of(len(ask.prompt), len(tokens))
    if ask.return_token_ids:
        body["prompt_token_ids"] = token_ids_of(ask.prompt)
    return _plain_json(body)


def embedding_of(tokens: Sequence[bytes], dimensions: int) -> list[float]:
    """A vector of length 1, the same for the same text whatever its tokens."""
    seed = hashlib.shake_128(b"".join(tokens)).digest(dimensions * 4)
    raw = [number / 2**31 - 1 for number in struct.unpack(f"<{dimensions}I", seed)]
    length = sum(number * number for number in raw) ** 0.5 or 1.0
    return [number / length for number in raw]
