"""Spreads of durations in bounded memory, and what several processes add up to."""

from __future__ import annotations

import random

import pytest

from penstock.bench.load.health import ProcessHealth, Spread, client_health


def test_quantiles_of_a_spread_are_right_within_its_buckets() -> None:
    durations = sorted(random.Random(1).expovariate(100) for _ in range(10_000))
    spread = Spread()

    for duration_s in durations:
        spread.note(duration_s)

    for share in (0.5, 0.99):
        assert spread.quantile(share) == pytest.approx(durations[int(share * 10_000) - 1], rel=0.045)
    assert spread.quantile(1) == spread.max_s == durations[-1]
    assert len(spread.buckets) < 500


def test_a_spread_of_nothing_is_zero_and_negative_durations_count_as_none() -> None:
    spread = Spread()
    assert spread.quantile(0.5) == 0

    spread.note(-1.0)

    assert (spread.count, spread.quantile(0.99)) == (1, 0)


def test_spreads_are_not_shared_and_add_up() -> None:
    one, other = Spread(), Spread()
    one.note(0.001)
    other.note(1.0)

    one.add(other)

    assert (one.count, other.count) == (2, 1)
    assert one.quantile(1.0) == 1.0


def test_processes_add_up_to_one_client() -> None:
    def part(late_s: float, cpu_s: float) -> ProcessHealth:
        spread = Spread()
        spread.note(late_s)
        return ProcessHealth(
            send_late=spread,
            loop_lag=spread,
            cpu_s=cpu_s,
            wall_s=2.0,
            events=100,
            ceiling_events_per_s=5000.0,
        )

    health = client_health([part(0.001, 1.0), part(0.1, 0.5)])

    assert health.send_late_max_s == 0.1
    assert health.cpu_share == (0.5, 0.25)
    assert (health.events, health.events_per_s, health.ceiling_events_per_s) == (200, 100.0, 10_000.0)


def test_processes_that_share_a_core_have_no_more_than_its_ceiling() -> None:
    parts = [ProcessHealth(Spread(), Spread(), ceiling_events_per_s=1000.0) for _ in range(4)]

    assert client_health(parts, cores=2).ceiling_events_per_s == 2000
    assert client_health(parts, cores=8).ceiling_events_per_s == 4000


def test_no_process_at_all_is_a_client_that_did_nothing() -> None:
    assert client_health([]).events == 0
