"""Schedules of loads: their rates, their evenness, and that one seed makes one schedule."""

from __future__ import annotations

import math
from statistics import mean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.workloads.arrivals import EVEN, EXAMPLES, SENDS_MAX, Load, LoadError, schedule


def dispersion(times: list[float], until_s: int) -> float:
    """The variance of how many fall into a second, over its mean; 1 for Poisson."""
    counts = [0] * until_s
    for time_s in times:
        counts[int(time_s)] += 1
    return variance(counts) / mean(counts)


def between(times: list[float], begins_s: float, ends_s: float) -> int:
    return sum(begins_s <= time_s < ends_s for time_s in times)


def test_a_constant_rate_is_evenly_spaced_from_the_start_on() -> None:
    times, stages = schedule(Load.constant(200), duration_s=5)

    assert times == pytest.approx([n / 200 for n in range(1000)])
    assert [(stage.label, stage.ends_s, stage.rate_per_s) for stage in stages] == [("200/s", 5, 200)]


@pytest.mark.parametrize("seed", range(5))
def test_poisson_arrivals_are_as_irregular_as_chance(seed: int) -> None:
    times, _ = schedule(Load.poisson(30), duration_s=1000, seed=seed)

    assert len(times) == pytest.approx(30_000, rel=0.03)
    assert dispersion(times, 1000) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("burstiness", "expected"), [(0.25, 4.0), (4.0, 0.25)])
def test_gamma_arrivals_are_as_bursty_as_is_asked(burstiness: float, expected: float) -> None:
    times, _ = schedule(Load.gamma(30, burstiness), duration_s=2000, seed=1)

    assert len(times) == pytest.approx(60_000, rel=0.05)
    assert dispersion(times, 2000) == pytest.approx(expected, rel=0.15)


def test_a_ramp_rises_evenly_and_is_told_apart_in_parts() -> None:
    times, stages = schedule(Load.ramp(10, 110), duration_s=500, seed=1)

    assert len(stages) == 5
    assert (stages[0].begins_s, stages[-1].ends_s) == (0, 500)
    for stage in stages:
        assert stage.ends_s is not None
        assert stage.rate_per_s is not None
        rate = between(times, stage.begins_s, stage.ends_s) / 100
        assert rate == pytest.approx(stage.rate_per_s, rel=0.1)


def test_a_ramp_by_count_ends_at_its_highest_rate() -> None:
    times, _ = schedule(Load.ramp(0, 10, burstiness=EVEN), count=100)

    assert len(times) == 100
    assert times == pytest.approx([math.sqrt(n * 2 * 20 / 10) for n in range(100)])


def test_each_step_of_a_staircase_has_its_rate_and_is_a_stage() -> None:
    times, stages = schedule(Load.staircase((5, 50, 20), 10, burstiness=EVEN))

    assert [between(times, stage.begins_s, stage.ends_s or 0) for stage in stages] == [50, 500, 200]
    assert [stage.label for stage in stages] == ["5/s", "50/s", "20/s"]


def test_a_staircase_is_cut_at_the_duration() -> None:
    times, stages = schedule(Load.staircase((5, 50), 10, burstiness=EVEN), duration_s=15)

    assert len(times) == 300
    assert stages[-1].ends_s == 15


def test_a_spike_has_its_own_stage_between_two_of_the_base() -> None:
    times, stages = schedule(Load.spike(2, 40, 5, 10, burstiness=EVEN), duration_s=30)

    assert [between(times, stage.begins_s, stage.ends_s or 0) for stage in stages] == [10, 400, 30]


def test_a_spike_out_of_nothing_ends_with_it() -> None:
    times, _ = schedule(Load.spike(0, 40, 5, 10), count=10_000, seed=3)

    assert min(times) >= 5
    assert max(times) < 15


def test_a_closed_loop_has_no_times_but_a_stage() -> None:
    times, stages = schedule(Load.closed(8), duration_s=10)

    assert times == []
    assert [(stage.label, stage.concurrency, stage.ends_s) for stage in stages] == [("concurrency 8", 8, 10)]


@given(
    st.sampled_from([Load.parse(text) for text in EXAMPLES]),
    st.integers(0, 2**32),
    st.floats(0.01, 100),
    st.integers(1, 500),
)
def test_times_ascend_and_stay_within_duration_and_count(
    load: Load, seed: int, duration_s: float, count: int
) -> None:
    times, stages = schedule(load, duration_s=duration_s, count=count, seed=seed)

    assert times == sorted(times)
    assert len(times) <= count
    assert all(0 <= time_s <= duration_s for time_s in times)
    assert [stage.begins_s for stage in stages[1:]] == [stage.ends_s for stage in stages[:-1]]
    assert schedule(load, duration_s=duration_s, count=count, seed=seed)[0] == times


def test_another_seed_makes_another_schedule() -> None:
    load = Load.poisson(10)

    assert schedule(load, count=10, seed=1)[0] != schedule(load, count=10, seed=2)[0]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_a_load_is_one_and_has_a_label(text: str) -> None:
    assert Load.parse(text).label


NO_LOADS = (
    "",
    "poisson",
    "poisson:",
    "poisson:0",
    "poisson:1.2.3",
    "poisson:1e9",
    "closed:0",
    "closed:1.5",
    "gamma:1",
    "gamma:1,0",
    "ramp:0-0",
    "staircase:1,0/5s",
    "staircase:1/0s",
    "spike:1-2@3s",
    "hyper:3",
)


@pytest.mark.parametrize("text", NO_LOADS)
def test_a_text_that_is_no_load_is_refused(text: str) -> None:
    with pytest.raises(LoadError):
        Load.parse(text)


def test_a_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(LoadError, match="no end"):
        schedule(Load.poisson(5))
    with pytest.raises(LoadError, match="duration"):
        schedule(Load.poisson(5), duration_s=0)
    with pytest.raises(LoadError, match="requests"):
        schedule(Load.poisson(5), count=SENDS_MAX + 1)
    with pytest.raises(LoadError, match="more than"):
        schedule(Load.poisson(1000), duration_s=86400)
