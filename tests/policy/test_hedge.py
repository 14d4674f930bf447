"""When a second replica is asked while the first is silent."""

from __future__ import annotations

from penstock.policy.hedge import TIME_LEFT_MIN_S, hedge
from penstock.policy.retry import RetryBudget


def test_a_hedge_takes_from_the_budget_of_retries() -> None:
    may, budget = hedge(RetryBudget(3.0), elsewhere=True, time_left_s=10.0)

    assert (may, budget.tokens) == (True, 2.0)


def test_nothing_is_hedged_without_another_replica_or_time_or_budget() -> None:
    full, spent = RetryBudget(3.0), RetryBudget(0.9)

    assert hedge(full, elsewhere=False, time_left_s=10.0) == (False, full)
    assert hedge(full, elsewhere=True, time_left_s=TIME_LEFT_MIN_S / 2) == (False, full)
    assert hedge(spent, elsewhere=True, time_left_s=10.0) == (False, spent)
