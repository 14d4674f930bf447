"""Requests are kept in columns, and a long run keeps an even part of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.analysis.rows import KINDS_MAX, OTHER_KIND, Rows, draw
from penstock.bench.analysis.steps import Steps
from penstock.bench.sample import Cause
from tests.bench.answers import answer, failure


def test_a_whole_answer_has_its_measures_and_a_failed_one_only_its_lateness() -> None:
    rows = Rows()
    rows.add(answer(0), good=True)
    rows.add(failure(1, at_s=1.0, sent_s=1.5), good=False, missed=3)
    rows.add(failure(2, cause=Cause.CUT_OFF, ended_s=9.0))

    assert rows.values["ttft"][0] == pytest.approx(0.2)
    assert math.isnan(rows.values["ttft"][1])
    assert rows.values["send_late"][1] == 0.5
    assert list(rows.good) == [1, 0, -1]
    assert list(rows.missed) == [0, 3, 0]
    assert rows.lasted_s[2] == 9.0
    assert math.isnan(rows.lasted_s[1])
    assert rows.cause_of(1) is Cause.SERVER_ERROR


def test_gaps_come_request_by_request_in_the_order_asked_for() -> None:
    rows = Rows()
    rows.add(answer(0, tokens=3, gap_s=0.1))
    rows.add(failure(1))
    rows.add(answer(2, tokens=2, gap_s=0.5))

    assert rows.pooled_gaps([2, 1, 0]) == pytest.approx([0.5, 0.1, 0.1])


def test_a_long_run_keeps_an_even_part_and_says_which() -> None:
    rows = Rows(rows_max=100, gaps_max=200)
    for index in range(3000):
        rows.add(answer(index, at_s=float(index), tokens=5))

    assert len(rows) <= 100
    assert rows.share == 1 / 32
    assert len(rows) == pytest.approx(3000 * rows.share, abs=3)
    assert rows.gaps_share <= rows.share
    assert len(rows.gaps) == sum(max(0, count) for count in rows.gap_count) <= 200
    # Evenly over time: no stretch of the run is forgotten.
    kept = [int(at_s // 500) for at_s in rows.scheduled_s]
    assert all(kept.count(part) == pytest.approx(len(kept) / 6, abs=2) for part in range(6))


def test_gaps_alone_may_be_thinned() -> None:
    rows = Rows(rows_max=1000, gaps_max=100)
    for index in range(60):
        rows.add(answer(index, tokens=11))

    assert len(rows) == 60
    assert rows.share == 1
    assert rows.gaps_share < 1
    assert len(rows.pooled_gaps(rows.in_order())) == len(rows.gaps) <= 100


def test_many_prompt_types_become_one() -> None:
    rows = Rows()

    codes = {rows.kind_code(f"kind {number}") for number in range(3 * KINDS_MAX)}

    assert len(codes) == len(rows.kinds) == KINDS_MAX
    assert rows.kinds[-1] == OTHER_KIND
    assert rows.kind_code("kind 3") == 3


@given(st.integers(0, 2**40))
def test_any_thousand_neighbours_are_drawn_evenly(first: int) -> None:
    below = sum(draw(first + number) < 2**31 for number in range(1000))

    assert 480 <= below <= 520


def test_sums_over_time_are_whole_between_the_first_and_the_last() -> None:
    steps = Steps(step_s=1.0, steps_max=10)
    steps.add([0.5, 1.5, 3.9], 2.0)
    steps.add([0.5], [1.0])
    steps.add([], 7.0)

    assert steps.between(0.0, 100.0) == pytest.approx(7.0)
    assert steps.between(1.0, 2.0) == pytest.approx(2.0)
    assert steps.between(3.45, 3.9) == pytest.approx(1.0)
    assert steps.between(50.0, 60.0) == 0.0


def test_one_moment_has_its_sum_too() -> None:
    steps = Steps()
    steps.add([2.0], 3.0)

    assert steps.between(0.0, 5.0) == 3.0
    assert steps.between(3.0, 5.0) == 0.0


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=100))
def test_steps_double_and_lose_nothing(times_s: list[float]) -> None:
    steps = Steps(step_s=0.1, steps_max=8)

    for at_s in times_s:
        steps.add([at_s], 1.0)

    assert sum(steps.sums.values()) == len(times_s)
    assert max(steps.sums) < 8
    assert steps.between(0.0, 5000.0) == pytest.approx(len(times_s))
