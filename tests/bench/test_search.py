"""A search ends at the highest load that met, and believes no share that its requests do not bear out."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.analysis.search import (
    Found,
    Outcome,
    SearchSettings,
    Trial,
    Try,
    knee,
    next_step,
    outcome,
    requests_needed,
    trial,
)
from penstock.bench.analysis.slo import parse_slo
from penstock.bench.analysis.summary import summarize
from penstock.bench.analysis.validity import judge
from penstock.bench.load.health import ClientHealth
from penstock.bench.plan import Stage
from tests.bench.answers import answer


def searched(
    server: Callable[[float], Trial], settings: SearchSettings, steps_max: int = 200
) -> tuple[Found, list[Trial]]:
    history: list[Trial] = []
    for _ in range(steps_max):
        step = next_step(history, settings)
        if isinstance(step, Found):
            return step, history
        history.append(server(step.load))
    raise AssertionError("the search did not end")


def up_to(limit: float) -> Callable[[float], Trial]:
    return lambda load: Trial(load, 200 if load <= limit else 0, 200)


@given(st.floats(0.05, 50_000), st.floats(0.02, 20_000))
def test_a_search_ends_around_the_limit(limit: float, start: float) -> None:
    settings = SearchSettings(start=start, least=0.01, most=100_000)

    found, history = searched(up_to(limit), settings)

    assert found.low is not None
    assert found.high is not None
    assert found.low <= limit < found.high
    assert found.high <= found.low * 1.051
    assert len(history) <= settings.trials_max


@given(st.integers(1, 5000), st.integers(1, 2000))
def test_a_search_of_whole_numbers_ends_at_the_number(limit: int, start: int) -> None:
    settings = SearchSettings(start=start, most=10_000, whole=True, within=0.0)

    found, history = searched(up_to(limit), settings)

    assert (found.low, found.high) == (limit, limit + 1)
    assert all(trial.load == int(trial.load) for trial in history)


def test_no_load_is_tried_beyond_what_may_be() -> None:
    found, history = searched(up_to(1e9), SearchSettings(start=10, most=100))

    assert (found.low, found.high) == (100, None)
    assert max(trial.load for trial in history) == 100
    assert "nothing above it was to be tried" in found.why


def test_a_server_that_never_meets_is_said_to() -> None:
    found, history = searched(up_to(0), SearchSettings(start=8, whole=True))

    assert (found.low, found.high) == (None, 1)
    assert [trial.load for trial in history] == [8, 4, 2, 1]
    assert found.why.startswith("no load had 95%")


def test_an_unsure_share_is_tried_again_and_then_counts_as_missed() -> None:
    settings = SearchSettings(start=10)
    unsure = Trial(10, 95, 100)

    assert outcome([unsure], settings) is Outcome.UNSURE
    assert next_step([unsure], settings) == Try(10, "10 is unsure still")
    assert outcome([unsure] * 3, settings) is Outcome.MISSED
    assert outcome([Trial(10, 0, 0)], settings) is Outcome.UNSURE


def test_a_hundred_good_ones_of_a_hundred_are_believed_and_fifty_are_not() -> None:
    settings = SearchSettings()

    assert outcome([Trial(1, 100, 100)], settings) is Outcome.MET
    assert outcome([Trial(1, 50, 50)], settings) is Outcome.UNSURE
    assert requests_needed(settings) == 73
    assert outcome([Trial(1, 50, 50), Trial(1, 50, 50)], settings) is Outcome.MET


def test_a_queue_without_end_has_missed_whatever_its_share() -> None:
    def server(load: float) -> Trial:
        return Trial(load, 200, 200, steady=load <= 40)

    found, _ = searched(server, SearchSettings())

    assert found.low is not None
    assert found.low <= 40
    assert found.why.endswith("since it was not steady there")


def test_a_client_at_its_limit_is_not_taken_for_the_servers() -> None:
    def server(load: float) -> Trial:
        return Trial(load, 200, 200, client_limited=load > 40)

    found, _ = searched(server, SearchSettings())

    assert found.why.endswith("the load generator was the limit: the server may do more")


def test_a_search_has_an_end_also_when_it_has_no_result() -> None:
    settings = SearchSettings(trials_max=4)

    found = next_step([Trial(2.0**n, 200, 200) for n in range(4)], settings)

    assert isinstance(found, Found)
    assert found.low == 8
    assert found.why.startswith("the search ended after 4 trials: ")


def test_a_lower_load_that_missed_bounds_the_higher_one_that_met() -> None:
    found = next_step([Trial(1, 200, 200), Trial(1.04, 0, 200), Trial(2, 200, 200)])

    assert isinstance(found, Found)
    assert (found.low, found.high) == (1, 1.04)


def test_a_share_near_the_wanted_one_ends_too() -> None:
    chance = random.Random(3)

    def server(load: float) -> Trial:
        share = min(1.0, max(0.0, 1.2 - load / 200))
        return Trial(load, sum(chance.random() < share for _ in range(300)), 300)

    found, history = searched(server, SearchSettings(start=5))

    assert found.low is not None
    assert 35 <= found.low <= 55
    assert len(history) <= 40


def test_the_knee_is_where_most_is_done_for_its_time() -> None:
    trials = [
        Trial(10, 1, 1, completed_per_s=10, latency_s=1.0),
        Trial(20, 1, 1, completed_per_s=20, latency_s=1.2),
        Trial(40, 1, 1, completed_per_s=25, latency_s=4.0),
        Trial(80, 1, 1, completed_per_s=90, latency_s=0.1, client_limited=True),
    ]

    assert knee(trials) == 20
    assert knee([Trial(1, 1, 1)]) is None


def test_the_first_load_is_the_one_asked_for() -> None:
    assert next_step([], SearchSettings(start=7.5)) == Try(7.5, "the first load")


@pytest.mark.parametrize("start", [0.4, 1.9])
def test_whole_loads_are_at_least_one(start: float) -> None:
    step = next_step([], SearchSettings(start=start, whole=True))

    assert isinstance(step, Try)
    assert step.load == 1.0


def test_a_run_becomes_a_trial() -> None:
    samples = [answer(n, at_s=n / 10, ttft_s=0.2 if n % 4 else 0.9) for n in range(200)]
    summary = summarize(
        samples,
        [Stage("10/s", 0.0, 20.0, rate_per_s=10.0)],
        slo=parse_slo("ttft=500ms"),
        client=ClientHealth(cpu_share=(1.0,)),
    )
    summary.verdict = judge(summary)

    tried = trial(10, summary)

    assert (tried.load, tried.good, tried.judged, tried.steady) == (10, 150, 200, True)
    assert tried.client_limited
    assert tried.latency_s == pytest.approx(0.5)
    assert tried.completed_per_s == pytest.approx(10, rel=0.05)
    with pytest.raises(ValueError, match="without an SLO"):
        trial(10, summarize(samples))
