"""What a request met of its model's objectives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config_slo import AVAILABILITY, GOODPUT
from penstock.core.record import Outcome, RequestRecord, Usage
from penstock.policy.objectives import judged

LIMITS_S = {"ttft": 1.0, "tpot": 0.1, "e2e": 10.0}


def record(**members: Any) -> RequestRecord:
    usual = {"stream": True, "outcome": Outcome.COMPLETE, "status": 200, "ended_s": 2.0}
    return RequestRecord("r", "POST", "/v1/completions", 0.0, 1e9, model="m", **{**usual, **members})


def streamed(**members: Any) -> RequestRecord:
    usual = {"first_token_s": 0.5, "last_token_s": 1.5, "usage": Usage(5, 21, "engine")}
    return record(**{**usual, **members})


def test_a_good_answer_meets_all_of_them() -> None:
    assert judged(streamed(), LIMITS_S) == {
        AVAILABILITY: True, "ttft": True, "tpot": True, "e2e": True, GOODPUT: True,
    }  # fmt: skip


def test_an_answer_that_is_slow_once_is_no_goodput() -> None:
    assert judged(streamed(first_token_s=1.2), LIMITS_S) == {
        AVAILABILITY: True, "ttft": False, "tpot": True, "e2e": True, GOODPUT: False,
    }  # fmt: skip


def test_a_failure_before_any_limit_had_passed_costs_availability_and_goodput_alone() -> None:
    failed = record(outcome=Outcome.REJECTED, status=502, fault="engine", ended_s=0.2)

    assert judged(failed, LIMITS_S) == {AVAILABILITY: False, GOODPUT: False}


def test_a_request_that_never_got_a_token_in_time_missed_its_first_token_too() -> None:
    failed = record(outcome=Outcome.REJECTED, status=503, fault="gateway", ended_s=30.0)

    assert judged(failed, LIMITS_S) == {AVAILABILITY: False, "ttft": False, "e2e": False, GOODPUT: False}


def test_a_client_that_left_early_tells_nothing_and_one_that_waited_too_long_tells() -> None:
    early = record(outcome=Outcome.CANCELLED, status=499, ended_s=0.3)
    late = record(outcome=Outcome.CANCELLED, status=499, ended_s=3.0)

    assert judged(early, LIMITS_S) == {}
    assert judged(late, LIMITS_S) == {"ttft": False, GOODPUT: False}


def test_what_a_client_did_wrong_is_judged_by_nothing() -> None:
    refused = record(outcome=Outcome.REJECTED, status=429, fault="client")

    assert judged(refused, LIMITS_S) == {}


def test_a_plain_answer_is_judged_by_its_whole_time_alone() -> None:
    plain = record(stream=False, ended_s=12.0)

    assert judged(plain, LIMITS_S) == {AVAILABILITY: True, "e2e": False, GOODPUT: False}


def test_an_answer_of_before_says_nothing_of_times() -> None:
    assert judged(record(replayed=True, ended_s=99.0), LIMITS_S) == {AVAILABILITY: True}


times = st.none() | st.floats(0, 1000)


@given(
    outcome=st.sampled_from(Outcome),
    fault=st.sampled_from(["", "client", "gateway", "engine"]),
    stream=st.booleans(),
    replayed=st.booleans(),
    first_s=times,
    last_s=times,
    ended_s=times,
    tokens=st.none() | st.integers(0, 1000),
    limits_s=st.dictionaries(st.sampled_from(list(LIMITS_S)), st.floats(0.001, 100)),
)
def test_goodput_is_no_better_than_any_other_objective(
    outcome: Outcome,
    fault: str,
    stream: bool,
    replayed: bool,
    first_s: float | None,
    last_s: float | None,
    ended_s: float | None,
    tokens: int | None,
    limits_s: dict[str, float],
) -> None:
    seen = record(
        outcome=outcome,
        fault=fault,
        stream=stream,
        replayed=replayed,
        first_token_s=first_s,
        last_token_s=last_s,
        ended_s=ended_s,
        usage=Usage(1, tokens),
    )

    verdicts = judged(seen, limits_s)

    assert set(verdicts) <= {AVAILABILITY, GOODPUT, *limits_s}
    if GOODPUT in verdicts:
        assert verdicts[GOODPUT] == all(verdicts.values())
    elif not replayed:
        assert all(verdicts.values())


@pytest.mark.parametrize("name", LIMITS_S)
def test_a_request_exactly_at_its_limit_is_good(name: str) -> None:
    exact = streamed(first_token_s=1.0, last_token_s=3.0, usage=Usage(5, 21, "engine"), ended_s=10.0)

    assert judged(exact, LIMITS_S)[name]
