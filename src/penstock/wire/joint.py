"""Where one stream goes on with the answer of another: a client must not see the joint."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from penstock.wire.delivered import Answer, Chunk, read_chunk
from penstock.wire.sse import event

_CREATED = rb'"created"\s*:\s*-?\d+'


class DivergedError(ValueError):
    """The second stream does not repeat what it was expected to."""


class Joint:
    """Makes events of a stream that goes on with `answer` look like more events of the first one.

    They get its `id` and `created`; a second role is left out; what the client has already is withheld; tokens of
    both are added up.

    Args:
        repeats: the end of the answer's text, which this stream writes once more before it goes on.
        kept_tokens: those of the answer that it does not write once more.
        prompt_tokens: of the request as it was, where they are known.
    """

    __slots__ = ("_answer", "_kept_tokens", "_names", "_prompt_tokens", "_repeats")

    def __init__(
        self, answer: Answer, *, repeats: str = "", kept_tokens: int = 0, prompt_tokens: int | None = None
    ) -> None:
        self._answer = answer
        self._repeats = repeats
        self._kept_tokens = kept_tokens
        self._prompt_tokens = prompt_tokens
        self._names: re.Pattern[bytes] | None = None

    def take(self, whole: bytes, data: bytes) -> bytes:
        """The event for the client; empty where there is nothing to tell it.

        Args:
            whole: an event of the second stream.
            data: its data.

        Raises:
            DivergedError: it does not repeat what the client has.
        """
        chunk = read_chunk(data)
        if chunk is None:
            return whole
        text = self._beyond(chunk)
        has_usage = bytes(chunk.usage) != b"null"
        drops_role = chunk.role and self._answer.role
        if chunk.choices and not text and chunk.finish_reason is None and not has_usage:
            return b"" if drops_role or chunk.text else self._named(whole, chunk)
        if drops_role or has_usage or text != chunk.text:
            whole = event(self._changed(data, text, drops_role=drops_role))
        return self._named(whole, chunk)

    def end(self) -> None:
        """The second stream is over.

        Raises:
            DivergedError: before it had repeated all of what the client has.
        """
        if self._repeats:
            raise DivergedError("it ended earlier")

    def _beyond(self, chunk: Chunk) -> str:
        """The text of `chunk` that the client does not have yet."""
        text, repeats = chunk.text, self._repeats
        if not repeats:
            return text
        if repeats.startswith(text):
            self._repeats = repeats[len(text) :]
            text = ""
        elif text.startswith(repeats):
            self._repeats = ""
            text = text[len(repeats) :]
        else:
            raise DivergedError("it goes another way")
        if chunk.finish_reason is not None:
            self.end()
        return text

    def _changed(self, data: bytes, text: str, *, drops_role: bool) -> bytes:
        members: dict[str, Any] = json.loads(data)
        for choice in members.get("choices") or ():
            if choice.get("delta") is None:
                choice["text"] = text
                continue
            if drops_role:
                choice["delta"].pop("role", None)
            if choice["delta"].get("content") is not None:
                choice["delta"]["content"] = text
        if isinstance(members.get("usage"), dict):
            self._add_up(members["usage"])
        return msgspec.json.encode(members)

    def _add_up(self, usage: dict[str, Any]) -> None:
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return
        known = self._prompt_tokens  # what comes is that of the longer request
        prompt = max(0, prompt - self._kept_tokens) if known is None else known
        completion += self._kept_tokens
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            details["cached_tokens"] = min(details["cached_tokens"], prompt)
        usage.update(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)

    def _named(self, whole: bytes, chunk: Chunk) -> bytes:
        """The event with the first stream's `id` and `created`, where it had them."""
        answer = self._answer
        if self._names is None:
            name = re.escape(msgspec.json.encode(chunk.id))
            self._names = re.compile(rb'"id"\s*:\s*%b|%b' % (name, _CREATED))

        def first(found: re.Match[bytes]) -> bytes:
            name, value = (b"id", answer.id) if found[0].startswith(b'"id"') else (b"created", answer.created)
            return found[0] if value is None else b'"%b":%b' % (name, msgspec.json.encode(value))

        return self._names.sub(first, whole)
