"""Times are counted as Prometheus counts them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.core.times import Times

BOUNDS = (0.001, 0.01, 0.5, 10.0)
SECONDS = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100)), max_size=50)


def of(values: list[float]) -> Times:
    times = Times(BOUNDS)
    for value in values:
        times.observe(value)
    return times


@given(SECONDS)
def test_each_is_counted_under_the_first_bound_that_it_does_not_pass(values: list[float]) -> None:
    times = of(values)

    assert sum(times.counts) == len(values)
    for place, bound in enumerate(BOUNDS):
        assert sum(times.counts[: place + 1]) == sum(value <= bound for value in values)


@given(SECONDS, SECONDS)
def test_what_was_counted_apart_is_the_same_together(some: list[float], others: list[float]) -> None:
    together = of(some)
    together.add(of(others))

    assert together.counts == of(some + others).counts
    assert abs(together.sum_s - sum(some + others)) < 1e-6


def test_several_that_are_the_same_are_counted_at_once() -> None:
    at_once = Times(BOUNDS)
    at_once.observe(0.25, 4)

    assert (at_once.counts, at_once.sum_s) == (of([0.25] * 4).counts, 1.0)
