"""Retries stay within their budget whatever happens, and are made only where they can help."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.retry import (
    BUDGET_MAX,
    BUDGET_PER_REQUEST,
    RETRIED_STATUSES,
    SAME_REPLICA_DELAY_S,
    Decision,
    Failure,
    RetryBudget,
    retry,
)

BUDGETED = [failure for failure in Failure if failure is not Failure.STALLED]


def decide(
    failure: Failure = Failure.LOST,
    *,
    retries_done: int = 0,
    retries_max: int = 2,
    elsewhere: bool = True,
    budget: RetryBudget = RetryBudget(),  # noqa: B008 - frozen
    time_left_s: float = 60.0,
) -> tuple[Decision, RetryBudget]:
    return retry(
        failure,
        retries_done=retries_done,
        retries_max=retries_max,
        elsewhere=elsewhere,
        budget=budget,
        time_left_s=time_left_s,
    )


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(BUDGETED)), max_size=300))
def test_retries_are_a_tenth_of_the_requests_and_the_first_ten_at_most(
    steps: list[tuple[bool, Failure]],
) -> None:
    budget, requests, retries = RetryBudget(), 0, 0
    for arrives, failure in steps:
        if arrives:
            budget, requests = budget.deposited(), requests + 1
        else:
            decision, budget = decide(failure, budget=budget)
            retries += decision.again

        assert retries <= BUDGET_MAX + BUDGET_PER_REQUEST * requests
        assert 0.0 <= budget.tokens <= BUDGET_MAX


def test_a_thousand_requests_that_all_fail_are_tried_again_a_hundred_and_ten_times_at_most() -> None:
    budget, retries = RetryBudget(), 0
    for _ in range(1000):
        budget = budget.deposited()
        decision, budget = decide(budget=budget)
        retries += decision.again

    assert 100 <= retries <= 110


@given(
    st.sampled_from(Failure),
    st.integers(0, 4),
    st.integers(0, 4),
    st.booleans(),
    st.floats(0, BUDGET_MAX),
    st.floats(-1, 1),
)
def test_a_retry_is_paid_for_and_a_refusal_is_free(
    failure: Failure, done: int, most: int, elsewhere: bool, tokens: float, time_left_s: float
) -> None:
    budget = RetryBudget(tokens)

    decision, after = decide(
        failure,
        retries_done=done,
        retries_max=most,
        elsewhere=elsewhere,
        budget=budget,
        time_left_s=time_left_s,
    )

    paid = decision.again and failure in BUDGETED
    assert after == (budget.withdrawn() if paid else budget)
    if decision.again:
        assert failure is not Failure.TIMEOUT
        assert done < most
        assert decision.delay_s < time_left_s
        assert tokens >= 1.0 or not paid


def test_what_stalled_is_moved_whatever_was_spent() -> None:
    spent = RetryBudget(0.0)

    assert decide(Failure.STALLED, budget=spent) == (Decision(True, "retry_stalled"), spent)


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.TIMEOUT])
def test_each_failure_but_a_timeout_is_tried_again_and_the_reason_names_it(failure: Failure) -> None:
    assert decide(failure)[0] == Decision(True, f"retry_{failure}")


def test_a_timeout_is_never_tried_again() -> None:
    assert decide(Failure.TIMEOUT)[0] == Decision(False, "a time limit has passed")


def test_the_last_allowed_attempt_is_the_last_one() -> None:
    assert decide(retries_done=1)[0].again
    assert decide(retries_done=2)[0] == Decision(False, "no more attempts are allowed")


def test_there_is_no_retry_behind_the_deadline() -> None:
    assert decide(time_left_s=0.0)[0] == Decision(False, "the deadline is too near")
    assert not decide(elsewhere=False, time_left_s=SAME_REPLICA_DELAY_S)[0].again


def test_an_empty_budget_allows_none_until_ten_requests_have_paid_in() -> None:
    budget = RetryBudget(0.0)

    for _ in range(11):  # ten tenths are a hair less than one in floating point
        assert decide(budget=budget)[0] == Decision(False, "the retry budget is spent")
        budget = budget.deposited()

    assert decide(budget=budget)[0].again


def test_the_same_replica_is_given_a_moment_and_another_one_none() -> None:
    assert decide(elsewhere=True)[0].delay_s == 0.0
    assert decide(elsewhere=False)[0].delay_s == SAME_REPLICA_DELAY_S


def test_statuses_that_would_be_said_again_are_not_tried_again() -> None:
    assert RETRIED_STATUSES.isdisjoint({*range(200, 500), 501, 505})


def test_a_budget_is_never_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        RetryBudget().tokens = 3.0  # type: ignore[misc]
