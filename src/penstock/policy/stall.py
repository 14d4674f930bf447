"""Whether a replica that has requests makes progress: bytes came, or its engine made a step.

The gateway's own traffic says what bytes came; the engine's page of metrics says whether it made steps, and is only
looked at in silence. That an engine answers its health check proves nothing: it does so while all work in it stands
still. A page that is late is no proof of a stall either; silence for the whole limit is.

Where nothing tells of steps, only streams count as work: a reply that is not streamed is silent to its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

# The silence after which the page is looked at, and how often then. A page of vLLM costs its server some milliseconds.
LOOK_AFTER_S = 0.25
LOOK_EVERY_S = 1.0
# An engine whose page counts no steps is asked again after this: another may have been put in its place.
LOOK_AGAIN_S = 60.0
# A look that was answered longer ago than this is no news.
FRESH_S = 2 * LOOK_EVERY_S

# How long a step may last, by whose counter tells of it, where nothing is set. vLLM's and SGLang's compute 8192 tokens
# of prompts at most: 2 s for a model of 405 B parameters on eight H100 at half their peak. What is compiled when it is
# first used may take five times as long. On a machine that takes longer still, it has to be set.
SHORT_STEPS = ("vllm:", "sglang:")
SHORT_STEPS_S = 15.0
# llama.cpp counts a prompt in batches of 2048 tokens: at 40 tokens/s, of a 7B model on a few cores, one takes 50 s.
# And where nothing counts, a long prompt is silent up to its first token.
LONG_STEPS_S = 60.0


class Pulse(Protocol):
    """What an engine's page says of its steps: another pulse, another step."""

    @property
    def counter(self) -> str:
        """Name of the metric that counts them."""

    @property
    def steps(self) -> float:
        """What it says."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the gateway has at a replica at one moment.

    Args:
        requests: that wait for the engine; not those that wait for their client.
        streams: those of them that are streamed.
        heard_s: when the last byte of any answer came from there.
    """

    requests: int = 0
    streams: int = 0
    heard_s: float = -math.inf


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a replica's progress; times on the monotonic clock.

    Args:
        moved_s: when it last made any, as far as was seen, or had nothing to do.
        work: what it had at the last look at it.
        pulse: what its page said last; None where none has counted steps.
        stepped_s: when that was seen to have changed.
        asked_s: when the page was asked for last.
        answered_s: when it, or an error, came last.
        page: what is wrong with the page; empty where nothing is.
    """

    moved_s: float
    work: Work = Work()
    pulse: Pulse | None = None
    stepped_s: float = -math.inf
    asked_s: float = -math.inf
    answered_s: float = -math.inf
    page: str = ""

    @property
    def is_blind(self) -> bool:
        """Whether nothing tells of its steps."""
        return self.pulse is None or bool(self.page)


def noted(progress: Progress, work: Work, now_s: float, late_s: float = 0.0) -> Progress:
    """What is known after a look at the traffic.

    Args:
        late_s: for how long the gateway itself stood still since the last look: no engine is to blame for that.
    """
    counted = work.streams if progress.is_blind else work.requests
    moved_s = max(progress.moved_s + late_s, work.heard_s) if counted else now_s
    return replace(progress, work=work, moved_s=min(moved_s, now_s))


def wants_look(progress: Progress, now_s: float) -> bool:
    """Whether the page of the engine should be looked at now."""
    if not progress.work.requests or progress.asked_s > progress.answered_s:
        return False
    if progress.is_blind:
        return now_s - progress.answered_s >= (LOOK_EVERY_S if progress.page else LOOK_AGAIN_S)
    return now_s - progress.moved_s >= LOOK_AFTER_S and now_s - progress.asked_s >= LOOK_EVERY_S


def asked(progress: Progress, now_s: float) -> Progress:
    """What is known once the page was asked for."""
    return replace(progress, asked_s=now_s)


def answered(progress: Progress, pulse: Pulse | None, page: str, now_s: float) -> Progress:
    """What is known once the page, or an error, has come.

    Args:
        pulse: what it says; None where it counts no steps, or did not come.
        page: what was wrong with it.
    """
    progress = replace(progress, answered_s=now_s, page=page)
    if pulse is None or pulse == progress.pulse:
        return progress
    return replace(progress, pulse=pulse, stepped_s=now_s, moved_s=now_s)


def limit_s(progress: Progress, set_s: float | None) -> float:
    """For how long it may make no progress; `set_s` is what is configured."""
    if set_s is not None:
        return set_s
    if progress.pulse is None or progress.is_blind:
        return LONG_STEPS_S
    return SHORT_STEPS_S if progress.pulse.counter.startswith(SHORT_STEPS) else LONG_STEPS_S


def is_stalled(progress: Progress, limit_s: float, now_s: float) -> bool:
    """Whether it has work, and has made no progress for the limit, which the last look at its page does not deny."""
    if now_s - progress.moved_s < limit_s:
        return False
    if progress.asked_s > progress.answered_s:  # a page that is late may still tell of steps
        return now_s - progress.asked_s >= limit_s / 2
    return progress.is_blind or now_s - progress.answered_s < FRESH_S


def evidence(progress: Progress, now_s: float) -> str:
    """What it was concluded from, for whoever runs the replica."""
    work = progress.work
    parts = [f"{work.requests} request{'s' if work.requests != 1 else ''}"]
    if progress.pulse is None:
        parts.append("an engine that counts no steps")
    else:
        since = f"no step for {now_s - progress.stepped_s:.1f} s"
        parts.append(f"{since} ({progress.pulse.counter} stays at {progress.pulse.steps:g})")
    heard = f"last byte {now_s - work.heard_s:.1f} s ago" if work.heard_s > -math.inf else "no byte ever"
    parts.append(heard)
    if progress.asked_s > progress.answered_s:
        parts.append(f"/metrics not answered for {now_s - progress.asked_s:.1f} s")
    elif progress.page:
        parts.append(progress.page)
    return ", ".join(parts)
