"""The JSON of requests, put together from bytes: no request is encoded twice, and none while the load runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.bench.workloads.lengths import WorkloadError

# Members that the plan itself sets: another value would make its numbers wrong.
OURS = frozenset({"model", "messages", "prompt", "stream", "stream_options", "max_tokens", "n"})
_PLAIN = re.compile(r"[ !#-\[\]-~]*")


class Template:
    """Bodies of one model and one route.

    Args:
        model: its name.
        chat: messages for /v1/chat/completions, else a prompt for /v1/completions.
        stream: server-sent events with usage at their end, else one whole answer.
        ignore_eos: the model may not stop by itself; only for servers that know this member.
        extra: further members; they may also replace `temperature` and `ignore_eos`.

    Raises:
        WorkloadError: `extra` has a member that the plan itself sets, or can't be JSON.
    """

    def __init__(
        self,
        model: str,
        *,
        chat: bool = True,
        stream: bool = True,
        ignore_eos: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        taken = OURS.intersection(extra or ())
        if taken:
            raise WorkloadError(
                f"extra: {min(taken)} is set by the plan",
                hint="leave it out; lengths and the model have options",
            )
        members: dict[str, Any] = {"temperature": 0}
        if ignore_eos:
            members["ignore_eos"] = True
        members.update(extra or {})
        members["stream"] = stream
        if stream:
            members["stream_options"] = {"include_usage": True}
        try:
            end = msgspec.json.encode(members)
        except TypeError as error:
            raise WorkloadError(f"extra: {error}", hint="give it as one JSON object") from None
        self._chat = chat
        self._begin = b'{"model":%b,' % msgspec.json.encode(model)
        self._end = b"," + end[1:]

    def body(self, texts: Sequence[str], max_tokens: int) -> bytes:
        """The body that asks for `max_tokens` tokens after `texts`; see `members`."""
        return b'%b%b,"max_tokens":%d%b' % (self._begin, members(texts, self._chat), max_tokens, self._end)


def members(texts: Sequence[str], chat: bool) -> bytes:
    """The JSON member that holds what was said, by user and assistant in turns, the user first and last.

    A completion has no turns: there the texts follow each other as lines.
    """
    if not chat:
        return b'"prompt":' + _quoted("\n".join(texts))
    if len(texts) == 1:
        return b'"messages":[{"role":"user","content":%b}]' % _quoted(texts[0])
    said = [
        b'{"role":"%b","content":%b}' % (b"assistant" if place % 2 else b"user", _quoted(text))
        for place, text in enumerate(texts)
    ]
    return b'"messages":[%b]' % b",".join(said)


def _quoted(text: str) -> bytes:
    """JSON of a text; ours have nothing to escape."""
    if _PLAIN.fullmatch(text):
        return b'"%b"' % text.encode("ascii")
    return msgspec.json.encode(text)
