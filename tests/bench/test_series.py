"""Numbers over time stay bounded, and tell the truth about growth, areas and means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.beside.series import Point, Series, growth, integral, mean, together, value_at


def filled(*points: Point, counter: bool = False, points_max: int = 3600) -> Series:
    series = Series(counter=counter, points_max=points_max)
    for at_s, value in points:
        series.add(at_s, value)
    return series


def test_a_level_is_kept_as_it_is() -> None:
    series = filled((1.0, 5.0), (2.0, 3.0))

    assert series.points(origin_s=1.0) == [(0.0, 5.0), (1.0, 3.0)]


def test_a_counter_is_told_as_growth_since_the_first_reading() -> None:
    series = filled((0.0, 100.0), (1.0, 130.0), (2.0, 130.0), counter=True)

    assert series.points() == [(0.0, 0.0), (1.0, 30.0), (2.0, 30.0)]


def test_a_counter_that_went_back_was_reset_and_its_new_total_is_added() -> None:
    series = filled((0.0, 100.0), (1.0, 110.0), (2.0, 7.0), counter=True)

    assert series.points()[-1] == (2.0, 17.0)
    assert series.resets == 1


@given(st.integers(min_value=1, max_value=2000), st.integers(min_value=4, max_value=50))
def test_however_many_readings_there_are_the_points_stay_bounded_and_hold_both_ends(
    readings: int, points_max: int
) -> None:
    series = filled(*((float(n), float(n)) for n in range(readings)), points_max=points_max)

    points = series.points()

    assert len(points) <= points_max + 1
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (readings - 1.0, readings - 1.0)
    assert points == sorted(set(points))


def test_a_value_lies_on_the_line_between_its_neighbours_and_ends_hold() -> None:
    points = [(1.0, 10.0), (3.0, 30.0)]

    assert [value_at(points, at_s) for at_s in (0.0, 1.0, 2.0, 3.0, 9.0)] == [10.0, 10.0, 20.0, 30.0, 30.0]
    with pytest.raises(ValueError, match="without points"):
        value_at([], 1.0)


def test_growth_between_two_times_is_the_difference() -> None:
    points = [(0.0, 0.0), (10.0, 100.0)]

    assert growth(points, 2.0, 4.0) == pytest.approx(20.0)
    assert growth([], 2.0, 4.0) == 0.0


def test_the_area_under_watts_is_joules_and_its_mean_divides_by_time() -> None:
    watts = [(0.0, 100.0), (10.0, 100.0), (20.0, 200.0)]

    assert integral(watts, 5.0, 20.0) == pytest.approx(500.0 + 1500.0)
    assert mean(watts, 5.0, 20.0) == pytest.approx(2000.0 / 15.0)
    assert integral(watts, 5.0, 5.0) == 0.0
    assert mean([], 0.0, 1.0) is None


@given(
    st.lists(st.floats(0, 1000), min_size=2, max_size=30), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)
)
def test_areas_of_neighbouring_times_add_up(values: list[float], a: float, b: float, c: float) -> None:
    points = [(float(second), value) for second, value in enumerate(values)]
    begins_s, middle_s, ends_s = sorted(share * len(values) for share in (a, b, c))

    parts = integral(points, begins_s, middle_s) + integral(points, middle_s, ends_s)

    assert parts == pytest.approx(integral(points, begins_s, ends_s), abs=1e-6)


def test_engines_are_added_up_only_while_all_of_them_are_known() -> None:
    first, second = [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], [(0.5, 10.0), (2.5, 20.0)]

    assert together([first, second], sum) == [(1.0, 13.5), (2.0, 18.5)]
    assert together([first, []], sum) == first
    assert together([], sum) == []
