"""What the load asks of simulated engines: questions with answers that are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.e2e.load import CHAT, COMPLETIONS, EMBEDDINGS, Ask
from tests.e2e.processes import Server


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the pieces of its answer, one for each token; none for one that is to be embedded."""

    route: str
    text: str
    pieces: tuple[str, ...]


def questions(engine: Server, model: str, count: int, tokens: int) -> list[Question]:
    """Prompts and what the simulated engine answers to them, asked of it without the gateway."""
    texts = [f"Tell me of river {number}, please." for number in range(count)]
    generated = [
        Question(route, text, _pieces(engine, route, text, model, tokens))
        for route in (CHAT, COMPLETIONS)
        for text in texts
    ]
    return [*generated, Question(EMBEDDINGS, texts[0], ())]


def _pieces(engine: Server, route: str, text: str, model: str, tokens: int) -> tuple[str, ...]:
    body = _members(route, text, model, tokens, streamed=True)
    reply = engine.request("POST", route, body, {"x-sim-fault": "tokens_per_chunk=1"})
    assert reply.status == 200, reply.body
    events = (line.removeprefix("data: ") for line in reply.body.decode().split("\n\n"))
    choices = (
        choice for data in events if data not in ("", "[DONE]") for choice in json.loads(data)["choices"]
    )
    pieces = (choice.get("text") or choice.get("delta", {}).get("content") for choice in choices)
    found = tuple(piece for piece in pieces if piece)
    assert len(found) == tokens, (text, found)
    return found


def _members(route: str, text: str, model: str, tokens: int, *, streamed: bool) -> dict[str, Any]:
    if route == EMBEDDINGS:
        return {"model": model, "input": text}
    asked: dict[str, Any] = (
        {"messages": [{"role": "user", "content": text}]} if route == CHAT else {"prompt": text}
    )
    members = {"model": model, **asked, "max_tokens": tokens, "ignore_eos": True}
    return {**members, "stream": True} if streamed else members


class Mix:
    """Makes requests of all kinds.

    Args:
        secrets: of the keys that are used.
        leaving: the share of clients that go before the end.
        leave_within_s: how long the longest of them stay.
        declining: the share of those who want no answer continued.
        prefix: what all request ids begin with.
        tokens_least: of an answer.
    """

    def __init__(
        self,
        random: Random,
        model: str,
        found: Sequence[Question],
        secrets: Sequence[str],
        *,
        leaving: float = 0.0,
        leave_within_s: float = 0.2,
        declining: float = 0.0,
        prefix: str = "load",
        tokens_least: int = 2,
    ) -> None:
        self._random = random
        self._model = model
        self._questions = found
        self._secrets = secrets
        self._leaving = leaving
        self._leave_within_s = leave_within_s
        self._declining = declining
        self._prefix = prefix
        self._tokens_least = tokens_least
        self._count = 0

    def __call__(self) -> Ask:
        random = self._random
        self._count += 1
        question = random.choice(self._questions)
        tokens = random.randint(self._tokens_least, len(question.pieces)) if question.pieces else 0
        streamed = bool(tokens) and random.random() < 0.7
        members = _members(question.route, question.text, self._model, tokens, streamed=streamed)
        if streamed and random.random() < 0.4:
            members["stream_options"] = {"include_usage": True}
        if random.random() < 0.5:
            members["temperature"] = 0
        leaves = random.random() < self._leaving
        by_events = leaves and streamed and random.random() < 0.5
        return Ask(
            request_id=f"{self._prefix}-{self._count}",
            secret=random.choice(self._secrets),
            route=question.route,
            body=json.dumps(members).encode(),
            streamed=streamed,
            tokens=tokens,
            text="".join(question.pieces[:tokens]),
            leave_after_s=random.uniform(0, self._leave_within_s) if leaves and not by_events else None,
            leave_after_events=random.randint(1, tokens) if by_events else None,
            headers="X-Penstock-Continue: no\r\n" if random.random() < self._declining else "",
        )
