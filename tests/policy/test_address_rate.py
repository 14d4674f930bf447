"""An address gets its rate and its burst, never more, and never waits in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.address_rate import BURST_S, take

rates = st.floats(0.01, 10_000.0)
times = st.floats(0.0, 1e6)


@given(rates, times)
def test_a_burst_of_two_seconds_worth_passes_at_once_and_no_more(rate: float, now_s: float) -> None:
    full_at_s, passed = 0.0, 0
    while passed < 3 * rate + 2:
        full_at_s, wait_s = take(full_at_s, now_s, rate)
        if wait_s:
            break
        passed += 1

    assert max(1, int(BURST_S * rate)) <= passed + 0.01 * rate
    assert passed <= max(1.0, BURST_S * rate) + 0.01 * rate


@given(rates, times, st.lists(st.floats(0.0, 5.0), max_size=200))
def test_in_any_time_no_more_passes_than_the_burst_and_the_rate(
    rate: float, now_s: float, pauses_s: list[float]
) -> None:
    begun_s, full_at_s, passed = now_s, 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        full_at_s, wait_s = take(full_at_s, now_s, rate)
        passed += not wait_s

    assert passed <= max(BURST_S * rate, 1.0) + (now_s - begun_s) * rate + 1e-3 * (rate + 1)


@given(rates, times, st.integers(1, 100))
def test_who_waits_as_long_as_told_passes(rate: float, now_s: float, count: int) -> None:
    full_at_s, wait_s = 0.0, 0.0
    for _ in range(count):
        full_at_s, wait_s = take(full_at_s, now_s, rate)

    assert not wait_s or take(full_at_s, now_s + wait_s, rate)[1] == 0.0
    assert wait_s <= max(1 / rate, BURST_S) + 1e-6


@given(rates, times, st.floats(0.0, 1e6))
def test_a_clock_that_goes_back_costs_no_more_than_the_burst(
    rate: float, now_s: float, back_s: float
) -> None:
    full_at_s, _ = take(0.0, now_s, rate)

    earlier_s = max(0.0, now_s - back_s)
    _, wait_s = take(full_at_s, earlier_s, rate)

    assert wait_s <= 1 / rate + 1e-6
