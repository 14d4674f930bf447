"""Whether a request is admitted, waits in line, or is turned away; and who gets a permit that has come free.

All rejections are the service's fault, not the client's: 503 with a time to come back, never 429.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from penstock.policy.breaker import CLEAN, Breaker, Trust
from penstock.policy.fair import SERVED, Entry, FairLine
from penstock.policy.fleet import Replica
from penstock.policy.permits import PERMITS_UNKNOWN

# Permits that must have come back before a wait is foretold; until then nobody is turned away for it.
SAMPLES_MIN = 8
# The part that one more sample has in what is measured: about the last 16 count.
SAMPLE_WEIGHT = 1 / 16

RETRY_AFTER_S_MIN = 1
RETRY_AFTER_S_MAX = 3600


class Verdict(StrEnum):
    """What becomes of a request that comes in."""

    ADMIT = "admit"
    WAIT = "wait"
    REJECT = "reject"


class Reason(StrEnum):
    """Why a request is turned away."""

    QUEUE_FULL = "queue_full"
    PREDICTED_WAIT_TOO_LONG = "predicted_wait_too_long"
    QUEUE_TIMEOUT = "queue_timeout"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and what goes with it.

    Args:
        reason: why it is rejected.
        retry_after_s: when it may be worth to try again; whole seconds.
        loser: the entry that had to leave the full line for this one, by the rule of `FairLine.loser`.
    """

    verdict: Verdict
    reason: Reason | None = None
    retry_after_s: int | None = None
    loser: Entry | None = None


ADMITTED = Decision(Verdict.ADMIT)
WAITING = Decision(Verdict.WAIT)


@dataclass(slots=True)
class Pace:
    """How long permits are held, and for how many tokens: means that forget."""

    samples: int = 0
    hold_s: float = 0.0
    cost_tokens: float = 0.0

    def add(self, hold_s: float, cost_tokens: int) -> None:
        """Counts in a permit that has come back. The first ones weigh equally."""
        self.samples += 1
        part = max(SAMPLE_WEIGHT, 1 / self.samples)
        self.hold_s += part * (max(0.0, hold_s) - self.hold_s)
        self.cost_tokens += part * (cost_tokens - self.cost_tokens)

    def wait_s(self, tokens_ahead: float, capacity: int) -> float | None:
        """The wait behind so many tokens; None where nothing can be said.

        With staggered ends the next of n permits comes back after hold_s / (n + 1); each request ahead takes
        hold_s / n more.
        """
        if self.samples < SAMPLES_MIN or capacity < 1:
            return None
        requests_ahead = tokens_ahead / self.cost_tokens
        return self.hold_s * (1 / (capacity + 1) + requests_ahead / capacity)


def capacity_of(
    ready: Sequence[Replica], breakers: Mapping[str, Breaker], concurrency: Mapping[str, int], now_s: float
) -> int:
    """How many permits the ready replicas of a model give together.

    One that is ejected gives none until it may be probed, and then one; where all are ejected, all give theirs,
    because `route` uses them all the same. To be asked anew when the fleet or a breaker changes, and when the
    ejection of one ends.

    Args:
        concurrency: by replica name; `PERMITS_UNKNOWN` for a missing one.
    """
    permits = everything = 0
    for replica in ready:
        own = concurrency.get(replica.name, PERMITS_UNKNOWN)
        everything += own
        breaker = breakers.get(replica.name, CLEAN)
        if breaker.state is Trust.CLOSED:
            permits += own
        elif breaker.state is Trust.HALF_OPEN or now_s >= breaker.until_s:
            permits += min(1, own)
    return permits or everything


class Admission:
    """The permits of one model, and the line before them.

    Args:
        queue_len_max: entries that may wait; 0 for none.
        sheds: whether a request is turned away at once when its wait would be longer than it may be.
    """

    def __init__(self, *, queue_len_max: int, sheds: bool = True, capacity: int = 0) -> None:
        self.queue_len_max = queue_len_max
        self.sheds = sheds
        self.capacity = capacity
        self.out = 0
        self.line = FairLine()
        self.pace = Pace()

    def arrive(self, entry: Entry, time_left_s: float) -> Decision:
        """Admits the entry, puts it in line, or turns it away.

        Args:
            time_left_s: for how long it may wait.
        """
        if self.out < self.capacity and not self.line.length:
            self.out += 1
            self.line.pass_by(entry)
            return ADMITTED
        return self._wait_or_reject(entry, time_left_s)

    def next_admitted(self) -> Entry | None:
        """The next entry that gets a permit; None while none is free or nobody waits. To be called until None."""
        if self.out >= self.capacity:
            return None
        entry = self.line.pop()
        if entry is not None:
            self.out += 1
        return entry

    def abandon(self, entry: Entry) -> bool:
        """Takes an entry out of the line; false where it did not wait there any more."""
        return self.line.remove(entry)

    def release(self, entry: Entry, *, actual_tokens: int | None, hold_s: float | None) -> bool:
        """Takes back a permit; false where it was back already.

        Args:
            actual_tokens: what the request really took; None where that is not known, 0 where it was not begun.
            hold_s: for how long it was held; None for one that was not used.
        """
        if entry.stand != SERVED:
            return False
        self.line.settle(entry, entry.cost_tokens if actual_tokens is None else actual_tokens)
        self.out -= 1
        if hold_s is not None:
            self.pace.add(hold_s, entry.cost_tokens)
        return True

    def predicted_wait_s(self, entry: Entry | None = None) -> float | None:
        """The wait of the entry were it pushed now; without one, of the last in line. None where it is not known."""
        if self.out < self.capacity and not self.line.length:
            return 0.0
        if entry is not None:
            ahead = self.line.tokens_ahead(entry)
        else:
            ahead = float(sum(lane.cost_tokens for lane in self.line.lanes.values()))
        return self.pace.wait_s(ahead, self.capacity)

    def retry_after_s(self, entry: Entry | None = None) -> int:
        """When a request like the entry may find room; whole seconds."""
        wait_s = self.predicted_wait_s(entry) or 0.0
        return min(RETRY_AFTER_S_MAX, max(RETRY_AFTER_S_MIN, math.ceil(wait_s)))

    def _wait_or_reject(self, entry: Entry, time_left_s: float) -> Decision:
        if not time_left_s > 0.0:
            return self._rejected(Reason.QUEUE_TIMEOUT, entry)
        predicted_s = self.predicted_wait_s(entry) if self.sheds else None
        if predicted_s is not None and predicted_s > time_left_s:
            return self._rejected(Reason.PREDICTED_WAIT_TOO_LONG, entry)
        if self.line.length < self.queue_len_max:
            self.line.push(entry)
            return WAITING
        loser = self.line.loser(entry)
        if loser is None:
            return self._rejected(Reason.QUEUE_FULL, entry)
        self.line.remove(loser)
        self.line.push(entry)
        return Decision(Verdict.WAIT, loser=loser)

    def _rejected(self, reason: Reason, entry: Entry) -> Decision:
        return Decision(Verdict.REJECT, reason, self.retry_after_s(entry))
