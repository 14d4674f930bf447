"""Percentiles, intervals and tests against laws, known values and simulated truth."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.stats import (
    binomial_quantile,
    design_effect,
    holm,
    mean_interval,
    percentile,
    percentile_interval,
    percentile_of_sorted,
    rank,
    rank_test,
    samples_needed,
    share_interval,
    stretches,
    student_quantile,
    trend,
)

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]

    assert [percentile(values, p) for p in (0, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]


def test_a_percentile_that_binary_cannot_write_is_not_one_rank_too_high() -> None:
    assert rank(1000, 99.9) == 999


@given(VALUES, st.floats(0, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float], p: float) -> None:
    found = percentile(values, p)

    assert found in values
    assert sum(value <= found for value in values) >= p / 100 * len(values) - 1e-6
    assert sum(value < found for value in values) < p / 100 * len(values) + 1e-6 or found == min(values)


@given(VALUES, st.floats(0, 100), st.floats(0, 100))
def test_percentiles_ascend(values: list[float], p: float, q: float) -> None:
    assert percentile(values, min(p, q)) <= percentile(values, max(p, q))


@pytest.mark.parametrize(("count", "p"), [(0, 50), (3, -1), (3, 100.1)])
def test_there_is_no_percentile_of_nothing_or_outside_0_to_100(count: int, p: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        rank(count, p)


def test_the_floors_are_those_of_mlperf() -> None:
    assert [samples_needed(p) for p in (90, 95, 99, 99.9)] == [64, 130, 662, 6636]
    assert samples_needed(5) == samples_needed(95)
    with pytest.raises(ValueError, match="no number"):
        samples_needed(100)


@given(st.integers(0, 60), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_binomial_quantile_is_the_first_count_that_reaches_the_probability(
    count: int, share: float, probability: float
) -> None:
    k = binomial_quantile(count, share, probability)

    def up_to(most: int) -> float:
        return sum(math.comb(count, i) * share**i * (1 - share) ** (count - i) for i in range(most + 1))

    assert up_to(k) >= probability - 1e-9
    assert k == 0 or up_to(k - 1) < probability + 1e-9


def test_the_binomial_quantile_knows_certainty_and_large_counts() -> None:
    assert (binomial_quantile(5, 0.0, 0.5), binomial_quantile(5, 1.0, 0.5)) == (0, 5)
    assert abs(binomial_quantile(1_000_000, 0.99, 0.975) - (990_000 + 1.96 * math.sqrt(9900))) < 3


@pytest.mark.parametrize(("p", "count"), [(50.0, 40), (90.0, 100), (99.0, 700)])
def test_the_interval_holds_the_true_percentile_as_often_as_it_says(p: float, count: int) -> None:
    chance = random.Random(5)
    truth = -math.log(1 - p / 100)

    held = 0
    for _ in range(300):
        low, high = percentile_interval(sorted(chance.expovariate(1) for _ in range(count)), p)
        assert low is not None
        assert high is not None
        held += low <= truth <= high

    assert held >= 0.93 * 300


def test_a_side_that_samples_do_not_bound_is_open() -> None:
    ordered = [float(number) for number in range(20)]

    low, high = percentile_interval(ordered, 99)

    assert low is not None
    assert high is None
    assert percentile_interval(ordered, 1)[0] is None
    assert percentile_interval(ordered, 50, effect=30.0) == (None, None)


@given(st.lists(st.floats(0, 1e3), min_size=50, max_size=200), st.floats(1, 5))
def test_values_that_hang_together_make_the_interval_no_narrower(values: list[float], effect: float) -> None:
    ordered = sorted(values)

    low, high = percentile_interval(ordered, 50)
    low_wide, high_wide = percentile_interval(ordered, 50, effect=effect)

    # A rank of slack: a count is cut to a whole one.
    assert low is not None
    assert high is not None
    assert low_wide is None or low_wide <= ordered[min(len(ordered) - 1, ordered.index(low) + 5)]
    assert high_wide is None or high_wide >= percentile_of_sorted(ordered, 50)


def test_wilson_gives_the_known_values() -> None:
    low, high = share_interval(8, 10)

    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert share_interval(0, 0) == (0.0, 1.0)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_share_is_within_its_interval(good: int, more: int) -> None:
    low, high = share_interval(good, good + more)

    assert 0 <= low <= good / (good + more) <= high <= 1


@given(st.integers(1, 3000))
def test_stretches_cover_everything_once(count: int) -> None:
    parts = stretches(count)

    assert parts[0][0] == 0
    assert parts[-1][1] == count
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(parts))
    assert all(begin < end for begin, end in parts)


def test_values_drawn_apart_count_almost_fully_and_those_in_runs_do_not() -> None:
    chance = random.Random(1)
    apart = [chance.random() for _ in range(2000)]
    level, together = 0.0, []
    for _ in range(2000):
        level = 0.98 * level + chance.gauss(0, 1)
        together.append(level)

    assert design_effect(apart, 0.5) < 1.6
    assert design_effect(together, percentile(together, 50)) > 5
    assert design_effect(apart[:10], 0.5) == 1.0
    assert design_effect([1.0] * 100, 1.0) == 1.0


def test_the_interval_of_a_mean_holds_the_truth_also_when_values_hang_together() -> None:
    held = 0
    for seed in range(200):
        chance, level, values = random.Random(seed), 0.0, []
        for _ in range(1500):
            level = 0.7 * level + chance.gauss(0, 1)
            values.append(level + 10)
        low, high = mean_interval(values)
        assert low is not None
        assert high is not None
        held += low <= 10 <= high

    assert held >= 0.9 * 200
    assert mean_interval([1.0] * 29) == (None, None)


@pytest.mark.parametrize(
    ("freedom", "truth"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)]
)
def test_students_quantile_is_right_within_1_percent(freedom: int, truth: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(truth, rel=0.01)


def test_a_trend_is_found_with_its_slope() -> None:
    p, slope = trend([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])

    assert p < 0.001
    assert slope == 1.0
    assert trend([3.0] * 10) == (1.0, 0.0)
    assert trend([1.0, 3.0, 2.0])[1] == pytest.approx(0.5)


@given(st.lists(st.integers(0, 9).map(float), min_size=3, max_size=20))
def test_a_trend_read_backwards_has_the_opposite_slope(values: list[float]) -> None:
    p, slope = trend(values)
    p_back, slope_back = trend(values[::-1])

    assert p == pytest.approx(p_back)
    assert slope == pytest.approx(-slope_back)
    assert 0 <= p <= 1


def test_the_rank_test_agrees_with_a_textbook() -> None:
    # Hollander and Wolfe: tritiated water, U = 15 of 50, exact two-sided p = 0.2544 (R: wilcox.test).
    at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    early = [1.15, 0.88, 0.90, 0.74, 1.21]

    p, above = rank_test(at_term, early)

    assert above == pytest.approx(15 / 50)
    assert p == pytest.approx(0.2544, abs=0.01)


def test_the_rank_test_counts_ties_as_half_and_knows_equal_sides() -> None:
    assert rank_test([1.0, 1.0], [1.0, 1.0]) == (1.0, 0.5)
    assert rank_test([1.0, 2.0], [2.0, 3.0])[1] == pytest.approx(3.5 / 4)


@given(
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20),
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20),
)
def test_the_rank_test_says_the_same_of_both_sides(a: list[float], b: list[float]) -> None:
    p, above = rank_test(a, b)
    p_turned, above_turned = rank_test(b, a)

    pairs = [(y > x) + (y == x) / 2 for x in a for y in b]
    assert p == pytest.approx(p_turned)
    assert above == pytest.approx(1 - above_turned)
    assert above == pytest.approx(sum(pairs) / len(pairs)) or p == 1.0


def test_the_rank_test_errs_seldom_where_nothing_differs_and_values_hang_together() -> None:
    wrong = 0
    for seed in range(100):
        chance, sides = random.Random(seed), []
        for _ in range(2):
            level, values = 0.0, []
            for _ in range(600):
                level = 0.8 * level + chance.gauss(0, 1)
                values.append(level)
            sides.append(values)
        wrong += rank_test(*sides)[0] < 0.05

    assert wrong <= 15


def test_holm_raises_small_p_values_and_keeps_their_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
