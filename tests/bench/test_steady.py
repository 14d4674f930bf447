"""A stage is steady when its figures had settled and stayed so; a queue that grows without end never is."""

from __future__ import annotations

import heapq
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.analysis.steady import Course, mser, settled


def queue(load: float, count: int, seed: int, *, servers: int = 8, service_s: float = 0.5) -> Course:
    """Requests at random times before `servers` places, offered `load` of what these can do."""
    chance = random.Random(seed)
    free = [0.0] * servers
    at_s = 0.0
    scheduled, ended, ttft, e2e = [], [], [], []
    for _ in range(count):
        at_s += chance.expovariate(load * servers / service_s)
        begun_s = max(at_s, heapq.heappop(free))
        end_s = begun_s + service_s * chance.uniform(0.5, 1.5)
        heapq.heappush(free, end_s)
        scheduled.append(at_s)
        ended.append(end_s)
        ttft.append(begun_s - at_s + 0.05)
        e2e.append(end_s - at_s)
    return Course(scheduled, ended, ttft, e2e, 0.0, at_s)


def closed_loop(values: list[float]) -> Course:
    """Requests one after the other, each as long as its value."""
    scheduled = [sum(values[:place]) for place in range(len(values))]
    ended = [begin + value for begin, value in zip(scheduled, values, strict=True)]
    return Course(scheduled, ended, values, values, 0.0, ended[-1])


def test_a_queue_that_grows_without_end_is_not_steady() -> None:
    found = [settled(queue(1.5, count, seed)) for count in (60, 300, 1000) for seed in range(20)]

    assert sum(each.steady is False for each in found) >= 58


def test_a_queue_that_is_served_is_steady() -> None:
    found = [settled(queue(0.6, 1000, seed)) for seed in range(60)]

    assert sum(each.steady is True for each in found) >= 57


def test_a_burst_of_forty_at_twice_the_capacity_is_not_steady() -> None:
    chance = random.Random(3)
    free = [0.0] * 4
    scheduled = [number / 16 for number in range(40)]
    begun = []
    for at_s in scheduled:
        begun.append(max(at_s, heapq.heappop(free)))
        heapq.heappush(free, begun[-1] + 0.5 * chance.uniform(0.99, 1.01))
    waits = [begin - at_s + 0.2 for begin, at_s in zip(begun, scheduled, strict=True)]
    ended = [begin + 0.5 for begin in begun]
    e2e = [end - at_s for end, at_s in zip(ended, scheduled, strict=True)]

    found = settled(Course(scheduled, ended, waits, e2e, 0.0, 2.5))

    assert found.steady is False
    assert "TTFT went from" in found.says


def test_a_slow_beginning_is_left_out() -> None:
    chance = random.Random(1)
    values = [2.0 + chance.random() * 0.1 for _ in range(40)] + [
        1.0 + chance.random() * 0.1 for _ in range(260)
    ]

    found = settled(closed_loop(values))

    assert found.steady is True
    assert 35 <= found.cut <= 45


def test_one_slow_answer_at_the_beginning_is_no_transient() -> None:
    chance = random.Random(1)
    values = [30.0] + [1.0 + chance.random() * 0.1 for _ in range(300)]

    assert settled(closed_loop(values)).cut == 0


def test_what_had_not_settled_by_the_middle_is_not_steady() -> None:
    found = settled(closed_loop([1.0 + number / 50 for number in range(200)]))

    assert found.steady is False


def test_requests_that_pile_up_tell_it_where_times_do_not() -> None:
    chance = random.Random(4)
    scheduled = [number / 10 for number in range(300)]
    failing = [at_s + 0.1 + at_s for at_s in scheduled]  # those that ended otherwise, ever later
    times = [1.0 + chance.random() * 0.1 if number % 2 else math.nan for number in range(300)]

    found = settled(Course(scheduled, failing, times, times, 0.0, 30.0))

    assert found.steady is False
    assert "requests under way went from" in found.says


def test_too_few_answers_cannot_tell() -> None:
    found = settled(queue(0.5, 19, 1))

    assert found.steady is None
    assert "20 are needed" in found.says


def test_a_stage_without_length_has_no_drift() -> None:
    same = [0.0] * 30

    assert settled(Course(same, same, [1.0] * 30, [1.0] * 30, 0.0, 0.0)).steady is True


def test_mser_finds_the_step_and_leaves_what_is_even() -> None:
    assert mser([5.0] * 20 + [1.0] * 80) == 20
    assert mser([]) == 0
    assert mser([1.0] * 100) == 0


@given(st.lists(st.floats(0, 100), max_size=200))
def test_mser_leaves_out_at_most_half(values: list[float]) -> None:
    assert 0 <= mser(values) <= len(values) / 2
