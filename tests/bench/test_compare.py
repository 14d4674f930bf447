"""A difference is told with its interval, and none is told where none is."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bench.analysis.compare import Comparison, Effect, compare
from penstock.bench.sample import Cause, Sample
from tests.bench.answers import answer, failure


def run(seed: int, count: int, *, factor: float = 1.0, drift: float = 1.0) -> list[Sample]:
    """Answers whose TTFT is lognormal around 200 ms, `factor` times as slow; `drift` slows the whole run."""
    chance = random.Random(seed)
    return [
        answer(
            n,
            at_s=n / 50,
            ttft_s=0.2 * factor * drift * chance.lognormvariate(0, 0.4),
            gap_s=0.02 * drift,
            tokens=4,
        )
        for n in range(count)
    ]


def ttft(comparison: Comparison, statistic: str) -> Effect:
    effects = {each.statistic: each for each in comparison.measures[0].effects}
    return effects[statistic]


def test_a_slower_server_is_told_with_its_size() -> None:
    result = compare([run(1, 2000)], [run(2, 2000, factor=1.2)], labels=("old", "new"))

    p50 = ttft(result, "p50")
    assert p50.shown
    assert p50.share == pytest.approx(0.2, abs=0.05)
    assert p50.low < 0.04 < p50.high
    assert result.measures[0].p_adjusted is not None
    assert result.measures[0].p_adjusted < 1e-6
    assert result.measures[0].above == pytest.approx(0.62, abs=0.03)
    assert result.says.startswith("new differs from old: TTFT p50 of new is")
    assert "higher, worse" in result.says


def test_the_same_server_twice_shows_no_difference_and_what_would_have_been_missed() -> None:
    result = compare([run(1, 1000)], [run(2, 1000)])

    p50 = ttft(result, "p50")
    assert not p50.shown
    assert 0.01 < (p50.detectable_share or 0) < 0.2
    assert result.says == "No difference between A and B is shown."
    assert "p50 shows no difference (less than" in result.measures[0].says


@pytest.mark.parametrize(("statistic", "count"), [("p50", 150), ("p95", 300), ("p99", 700), ("mean", 150)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(statistic: str, count: int) -> None:
    def true(mu: float) -> float:
        if statistic == "mean":
            return math.exp(mu + 0.08)
        return math.exp(mu + 0.4 * NormalDist().inv_cdf(float(statistic[1:]) / 100))

    held = 0
    for seed in range(30):
        chance = random.Random(seed)
        sides = [
            [answer(n, at_s=float(n), ttft_s=chance.lognormvariate(mu, 0.4), tokens=1) for n in range(count)]
            for mu in (0.0, 0.1)
        ]
        found = ttft(compare([sides[0]], [sides[1]], measures=("ttft",), seed=seed), statistic)
        held += found.low <= true(0.1) - true(0.0) <= found.high

    assert held >= 25


def test_the_smallest_detectable_difference_is_found_four_times_in_five() -> None:
    detectable = ttft(compare([run(1, 400)], [run(2, 400)], measures=("ttft",)), "mean").detectable_share
    assert detectable is not None

    found = [
        ttft(
            compare([run(seed, 400)], [run(1000 + seed, 400, factor=1 + detectable)], measures=("ttft",)),
            "mean",
        ).shown
        for seed in range(30)
    ]

    assert 0.6 <= sum(found) / 30 <= 0.97


def test_interleaved_runs_are_not_deceived_by_a_drift_that_both_had() -> None:
    drifts = [1.0, 1.4, 1.8, 2.2]
    a = [run(seed, 200, drift=drift) for seed, drift in enumerate(drifts)]
    b = [run(100 + seed, 200, drift=drift) for seed, drift in enumerate(drifts)]
    slower = [run(100 + seed, 200, drift=drift, factor=1.3) for seed, drift in enumerate(drifts)]

    same, differs = compare(a, b), compare(a, slower)

    assert same.pairs == 4
    assert not ttft(same, "p50").shown
    assert ttft(differs, "p50").shown
    assert not any("--interleave" in note for note in same.notes)


def test_percentiles_below_the_floor_are_not_compared() -> None:
    few = compare([run(1, 100)], [run(2, 100)])
    none = compare([run(1, 5)], [run(2, 5)])

    assert [each.statistic for each in few.measures[0].effects] == ["p50", "mean"]
    assert none.measures[0].says == "TTFT: not enough samples (5 and 5)"
    assert none.measures[0].p_value is None
    assert none.says == "There are not enough samples to compare A and B."


def test_equal_values_show_no_difference() -> None:
    same = [answer(n, at_s=float(n)) for n in range(200)]

    result = compare([same], [same])

    assert not any(each.shown for measure in result.measures for each in measure.effects)
    assert result.measures[1].p_value == 1.0


def test_what_is_faster_is_called_better() -> None:
    result = compare([run(1, 500, factor=1.5)], [run(2, 500)], measures=("ttft",))

    assert "lower, better" in result.says


def test_a_measure_that_is_zero_has_no_share() -> None:
    a = [answer(n, at_s=float(n)) for n in range(100)]
    b = [answer(n, at_s=float(n), tail_s=0.01) for n in range(100)]

    result = compare([a], [b], measures=("tail",))

    assert result.measures[0].effects[0].share is None
    assert "p50 of B is 10 ms higher, worse" in result.says.replace("tail p50", "p50")


def test_error_shares_are_compared_too() -> None:
    bad = [*run(1, 90), *(failure(n) for n in range(10)), answer(7, cause=Cause.CANCELLED)]

    result = compare([run(1, 100)], [bad])

    assert result.errors is not None
    assert (result.errors.a, result.errors.b) == (0.0, 0.1)
    assert result.errors.shown
    assert compare([[]], [bad]).errors is None


def test_the_warm_up_is_not_compared() -> None:
    warm = [answer(n, ttft_s=9.0, stage=-1) for n in range(50)]

    assert compare([[*warm, *run(1, 100)]], [run(2, 100)]).measures[0].count_a == 100


def test_blocks_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="make no pairs"):
        compare([run(1, 5)], [])
    with pytest.raises(ValueError, match="make no pairs"):
        compare([], [])


def test_the_same_seed_gives_the_same_result_in_a_file() -> None:
    first, second = (compare([run(1, 200)], [run(2, 200)], seed=7) for _ in range(2))

    assert first == second
    assert msgspec.json.decode(msgspec.json.encode(first), type=Comparison) == first


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 2.0))
def test_turned_around_the_difference_has_the_opposite_sign(seed: int, factor: float) -> None:
    a, b = run(seed, 40), run(seed + 1, 40, factor=factor)

    there = ttft(compare([a], [b], measures=("ttft",)), "p50")
    back = ttft(compare([b], [a], measures=("ttft",)), "p50")

    assert there.difference == pytest.approx(-back.difference)
    assert there.low <= there.high
