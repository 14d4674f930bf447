"""How many requests a replica may hold at once, learned from what its engine says of its own load.

More while the engine has no queue and all permits are used; down towards what it runs when it queues or its KV
cache is full. Requests then wait here, where they are fair and can be shed, and not in the engine, where they are
neither. A short queue is left to it, so that it never waits for its next request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PERMITS_MAX = 1024
PERMITS_FIRST = 64
# What nothing is known of, and nothing can be learned of: vLLM's own limit is this, or more.
PERMITS_UNKNOWN = 256

KV_USAGE_MAX = 0.95
# In use, though a few were returned just as the engine was asked.
USED_SHARE = 0.9
# Grows by one and this part of itself: two minutes from 64 to the most, when asked every 2 s.
GROWTH_SHARE = 1 / 16
# Left to the engine's own queue: one and this part of what it runs.
SPARE_SHARE = 1 / 16
# Somebody who asks more often than this learns no faster.
STEP_S_MIN = 1.0
# One look may have caught a burst on its way into the batch; looks further apart than this are not the same queue.
QUEUE_LOOKS = 2
QUEUE_LOOK_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at an engine.

    Args:
        running: requests in its batch, 0 or more.
        waiting: requests in its own queue, 0 or more.
        kv_usage: the used part of its KV cache, 0 to 1; None where it does not say.
        in_flight: permits that this gateway held there at that moment.
    """

    running: int
    waiting: int
    kv_usage: float | None
    in_flight: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of one replica: its permits, and how often in a row it had a queue."""

    permits: int = PERMITS_FIRST
    queued_looks: int = 0
    looked_s: float = -math.inf
    stepped_s: float = -math.inf


def learned(before: Learned, sample: Sample, now_s: float) -> Learned:
    """What is known after one more look, at `now_s` on the monotonic clock."""
    spare = 1 + math.floor(sample.running * SPARE_SHARE)
    queued = sample.waiting > spare
    recent = now_s - before.looked_s <= QUEUE_LOOK_S_MAX
    looks = min(QUEUE_LOOKS, (before.queued_looks if recent else 0) + 1) if queued else 0
    if now_s - before.stepped_s < STEP_S_MIN:
        return Learned(before.permits, looks, now_s, before.stepped_s)
    permits = _step(before.permits, sample, spare, queued=looks >= QUEUE_LOOKS)
    permits = min(PERMITS_MAX, permits)
    return Learned(permits, looks, now_s, now_s if permits != before.permits else before.stepped_s)


def _step(permits: int, sample: Sample, spare: int, *, queued: bool) -> int:
    kv_full = sample.kv_usage is not None and sample.kv_usage > KV_USAGE_MAX
    if queued or kv_full:
        room = _own_share(sample) + spare
        if sample.in_flight == 0 or room >= permits:
            return permits
        return permits - math.ceil((permits - room) / 2)  # halfway, so that one odd look does little
    if sample.waiting == 0 and sample.in_flight >= permits * USED_SHARE:
        return permits + 1 + math.floor(permits * GROWTH_SHARE)
    return permits


def _own_share(sample: Sample) -> int:
    """How many of those that the engine runs are this gateway's: others may send to it as well."""
    return math.ceil(sample.in_flight * sample.running / max(1, sample.running + sample.waiting))
