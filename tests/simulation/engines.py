"""Engines as a gateway sees them: they answer, refuse, break, stall, slow down, die and come back."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.gateway import Request

CONNECT_S = 0.001
ANSWER_S = 0.02
PREFILL_TOKENS_PER_S = 5000.0
TOKEN_S = 0.01


class Mode(StrEnum):
    """How an engine is."""

    SOUND = "sound"
    DEAD = "dead"
    STALLED = "stalled"
    BROKEN = "broken"  # answers everything with a 5xx
    SLOW = "slow"
    FLAKY = "flaky"  # loses some of its connections


@dataclass(frozen=True, slots=True)
class Course:
    """What an attempt will come to, if nothing happens in between.

    Args:
        begins_s: until the head of an answer, or the refusal.
        failure: refused, status or lost; empty where the answer comes whole.
        status: of the answer.
        lasts_s: from the first token to the last one, or to the loss.
    """

    begins_s: float
    failure: str = ""
    status: int = 200
    lasts_s: float = 0.0


class Engine:
    """One engine; `live` are the requests that it has."""

    __slots__ = ("concurrency", "live", "mode", "name")

    def __init__(self, name: str, concurrency: int) -> None:
        self.name = name
        self.concurrency = concurrency
        self.mode = Mode.SOUND
        self.live: dict[Request, None] = {}

    def course(self, request: Request, rng: random.Random) -> Course | None:
        """What becomes of an attempt that begins now; None where nothing ever comes back."""
        mode = self.mode
        if mode is Mode.DEAD:
            return Course(CONNECT_S, "refused")
        if mode is Mode.STALLED:
            return None
        if mode is Mode.BROKEN:
            return Course(ANSWER_S, "status", rng.choice((500, 502, 503)))
        if request.arrival.status != 200:
            return Course(ANSWER_S, status=request.arrival.status)
        factor = 10.0 if mode is Mode.SLOW else 1.0
        begins_s = (0.01 + request.arrival.prompt_tokens / PREFILL_TOKENS_PER_S) * factor
        lasts_s = request.arrival.completion_tokens * TOKEN_S * factor
        if mode is Mode.FLAKY and rng.random() < 0.5:
            part = rng.random() * 1.5 - 0.5  # before its first token in a third of the cases
            return Course(begins_s, "lost", lasts_s=lasts_s * part)
        return Course(begins_s, lasts_s=lasts_s)
