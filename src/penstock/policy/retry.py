"""Whether a failed attempt is tried again before the client has seen a byte.

Only what cannot be the client's fault is tried again, and only within a budget: retries may make up a tenth
of the traffic, so that a failing engine is not buried under its own failures.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# design.md: 10 % of traffic; and as many as this at once while there is hardly any traffic.
BUDGET_PER_REQUEST = 0.1
BUDGET_MAX = 10.0

# Tried again elsewhere: the engine failed. Not 501 and 505, which would be answered the same again.
RETRIED_STATUSES = frozenset({500, 502, 503, 504})

# A pause before the same replica is asked again; another replica is asked at once.
SAME_REPLICA_DELAY_S = 0.1


class Failure(StrEnum):
    """How an attempt failed."""

    REFUSED = "refused"
    LOST = "lost"
    MALFORMED = "malformed"
    TIMEOUT = "timeout"
    STATUS = "status"
    STALLED = "stalled"  # not tried again but moved, as answers that have begun are: outside the budget


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """What is left to spend: each request pays in a little, each retry takes out one."""

    tokens: float = BUDGET_MAX

    def deposited(self) -> RetryBudget:
        """The budget after one more request."""
        if self.tokens >= BUDGET_MAX:
            return self
        return RetryBudget(min(BUDGET_MAX, self.tokens + BUDGET_PER_REQUEST))

    def withdrawn(self) -> RetryBudget:
        """The budget after one more retry."""
        return RetryBudget(self.tokens - 1.0)


@dataclass(frozen=True, slots=True)
class Decision:
    """Try again after `delay_s` seconds, or not; and why."""

    again: bool
    reason: str
    delay_s: float = 0.0


def retry(
    failure: Failure,
    *,
    retries_done: int,
    retries_max: int,
    elsewhere: bool,
    budget: RetryBudget,
    time_left_s: float,
) -> tuple[Decision, RetryBudget]:
    """Whether to try again, and the budget after it.

    Args:
        retries_done: attempts made so far, less the first.
        elsewhere: a ready replica is left that this request has not tried.
        time_left_s: until the request's own deadline.
    """
    delay_s = 0.0 if elsewhere else SAME_REPLICA_DELAY_S
    if failure is Failure.TIMEOUT:
        return Decision(False, "a time limit has passed"), budget
    if retries_done >= retries_max:
        return Decision(False, "no more attempts are allowed"), budget
    if time_left_s <= delay_s:
        return Decision(False, "the deadline is too near"), budget
    if failure is Failure.STALLED:
        return Decision(True, f"retry_{failure}", delay_s), budget
    if budget.tokens < 1.0:
        return Decision(False, "the retry budget is spent"), budget
    return Decision(True, f"retry_{failure}", delay_s), budget.withdrawn()
