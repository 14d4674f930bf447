"""Whether a second replica is asked while the first is silent: whoever sends a byte first is taken."""

from __future__ import annotations

from penstock.policy.retry import RetryBudget

# With less time than this left, a second attempt would come too late.
TIME_LEFT_MIN_S = 0.1


def hedge(budget: RetryBudget, *, elsewhere: bool, time_left_s: float) -> tuple[bool, RetryBudget]:
    """Whether to ask another replica as well, and the budget after it; hedges and retries share one.

    Args:
        elsewhere: a ready replica is left that this request has not tried.
        time_left_s: until the request's own deadline.
    """
    if not elsewhere or time_left_s < TIME_LEFT_MIN_S or budget.tokens < 1.0:
        return False, budget
    return True, budget.withdrawn()
