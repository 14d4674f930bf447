"""What a record derives is right, and is None where it was never reached."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.core.record import Attempt, Outcome, RequestRecord, Usage


def record(**members: Any) -> RequestRecord:
    return RequestRecord("req_1", "POST", "/v1/completions", arrived_s=100.0, started_at=1e9, **members)


def test_a_new_record_knows_of_nothing_but_its_arrival() -> None:
    new = record()

    assert (new.duration_s, new.ttft_s, new.tpot_s, new.overhead_s, new.replica) == (
        None,
        None,
        None,
        None,
        "",
    )
    assert new.outcome is Outcome.REJECTED
    assert new.usage == Usage(None, None, "none")


def test_two_records_share_nothing() -> None:
    first, second = record(), record()

    first.attempts.append(Attempt("a", "only_one", 100.0))
    first.usage.prompt_tokens = 3

    assert second.attempts == []
    assert second.usage.prompt_tokens is None


def test_times_count_from_arrival() -> None:
    done = record(first_token_s=100.5, ended_s=103.0)

    assert done.ttft_s == 0.5
    assert done.duration_s == 3.0


def test_the_time_before_the_first_attempt_is_the_gateways_own() -> None:
    attempts = [Attempt("a", "least_load", 100.25), Attempt("b", "last_untried", 101.0)]

    tried = record(attempts=attempts)

    assert tried.overhead_s == 0.25
    assert tried.replica == "b"


def test_a_client_that_is_slow_with_its_body_and_a_long_line_are_no_time_of_the_gateways_own() -> None:
    tried = record(
        authenticated_s=100.25,
        body_read_s=101.25,
        lined_up_s=101.5,
        admitted_s=105.5,
        attempts=[Attempt("a", "least_load", 105.75)],
    )

    assert tried.queue_s == 4.0
    assert tried.overhead_s == 0.75


def test_who_left_the_line_has_waited_in_it_and_who_never_came_to_it_has_not() -> None:
    assert record(lined_up_s=101.0, ended_s=131.0).queue_s == 30.0
    assert record(lined_up_s=101.0).queue_s is None
    assert record(body_read_s=101.0, ended_s=131.0).queue_s is None


def test_time_per_token_is_over_the_gaps_between_tokens() -> None:
    done = record(first_token_s=101.0, last_token_s=103.0, usage=Usage(7, 5, "engine"))

    assert done.tpot_s == 0.5


@pytest.mark.parametrize("tokens", [None, 0, 1])
def test_fewer_than_two_tokens_have_no_time_per_token(tokens: int | None) -> None:
    assert record(first_token_s=1.0, last_token_s=2.0, usage=Usage(7, tokens)).tpot_s is None


def test_an_answer_without_a_first_or_last_token_has_no_time_per_token() -> None:
    assert record(last_token_s=2.0, usage=Usage(7, 5)).tpot_s is None
    assert record(first_token_s=2.0, usage=Usage(7, 5)).tpot_s is None


def test_answers_side_by_side_have_the_time_per_token_of_each() -> None:
    both = record(first_token_s=101.0, last_token_s=103.0, usage=Usage(7, 10), answers=2)

    assert both.tpot_s == 0.5
    assert record(first_token_s=1.0, last_token_s=2.0, usage=Usage(7, 3), answers=2).tpot_s is None
