"""Permits follow what an engine can run: up while it keeps up, down when it queues, and always within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.permits import (
    KV_USAGE_MAX,
    PERMITS_FIRST,
    PERMITS_MAX,
    QUEUE_LOOK_S_MAX,
    STEP_S_MIN,
    Learned,
    Sample,
    learned,
)

EVERY_S = 2.0


def look(
    permits: int, running: int, waiting: int, *, kv: float | None = 0.5, in_flight: int | None = None
) -> int:
    """The permits after the same sample was seen twice."""
    sample = Sample(running, waiting, kv, running + waiting if in_flight is None else in_flight)
    once = learned(Learned(permits), sample, 100.0)
    return learned(once, sample, 100.0 + EVERY_S).permits


def settled(
    room: int, *demands: int, kv_max: float = 0.5, looks: int = 400, first: int = PERMITS_FIRST
) -> list[list[int]]:
    """The permits of each gateway before one engine that runs `room` at once, over time.

    Args:
        demands: requests that each gateway would send at once.
        kv_max: the usage of the engine's cache when it runs `room`.
        first: permits with which the last of the gateways begins.
    """
    states = [Learned() for _ in demands[1:]] + [Learned(first)]
    seen: list[list[int]] = [[] for _ in demands]
    for number in range(looks):
        held = [min(demand, state.permits) for demand, state in zip(demands, states, strict=True)]
        running = min(room, sum(held))
        for i, in_flight in enumerate(held):
            sample = Sample(running, sum(held) - running, kv_max * running / room, in_flight)
            states[i] = learned(states[i], sample, number * EVERY_S)
            seen[i].append(states[i].permits)
    return seen


@pytest.mark.parametrize("room", [1, 4, 30, 64, 256, 1000])
def test_permits_settle_a_little_above_what_the_engine_runs(room: int) -> None:
    late = settled(room, 2000)[0][-100:]

    assert min(late) >= room
    assert max(late) <= room + 4 + room // 8


def test_permits_grow_to_the_most_in_two_minutes_where_the_engine_keeps_up() -> None:
    seen = settled(5000, 5000)[0]

    assert seen == sorted(seen)
    assert seen[0] > PERMITS_FIRST
    assert seen[int(120 / EVERY_S)] == PERMITS_MAX


def test_permits_that_nobody_uses_do_not_grow() -> None:
    assert set(settled(1000, PERMITS_FIRST // 2)[0]) == {PERMITS_FIRST}


def test_a_full_cache_stops_growth_also_without_a_queue() -> None:
    late = settled(100, 100, kv_max=1.0)[0][-100:]

    assert max(late) <= 105
    assert min(late) >= 90


@pytest.mark.parametrize("first", [PERMITS_FIRST, 500])
def test_gateways_before_one_engine_keep_it_busy_together_and_none_is_pushed_out(first: int) -> None:
    one, other = settled(100, 1000, 1000, first=first)

    together = [a + b for a, b in zip(one, other, strict=True)][-100:]
    assert min(together) >= 100
    assert max(together) <= 120
    assert min(one[-100:] + other[-100:]) >= 20


def test_one_burst_on_its_way_into_the_batch_is_no_queue() -> None:
    burst, calm = Sample(64, 30, 0.5, 64), Sample(64, 0, 0.5, 20)
    state = Learned(64)

    for number in range(20):
        state = learned(state, burst if number % 2 else calm, number * EVERY_S)

    assert state.permits == 64


def test_two_looks_that_lie_far_apart_are_not_one_queue() -> None:
    burst = Sample(64, 30, 0.5, 64)

    once = learned(Learned(64), burst, 0.0)
    again = learned(once, burst, QUEUE_LOOK_S_MAX + 1)

    assert again.permits == 64


def test_a_queue_brings_permits_halfway_down_and_a_short_one_changes_nothing() -> None:
    assert look(64, running=20, waiting=44) == 43  # towards 20 and a spare of 2
    assert look(64, running=20, waiting=2) == 64


def test_a_full_cache_brings_them_down_at_once() -> None:
    full = Sample(30, 0, KV_USAGE_MAX + 0.01, 30)

    assert learned(Learned(64), full, 0.0).permits == 48
    assert learned(Learned(64), Sample(30, 0, KV_USAGE_MAX, 30), 0.0).permits == 64


def test_an_engine_that_tells_no_cache_usage_is_judged_by_its_queue_alone() -> None:
    assert look(64, running=64, waiting=0, kv=None) > 64
    assert look(64, running=20, waiting=44, kv=None) < 64


def test_a_gateway_that_holds_nothing_there_learns_nothing() -> None:
    assert look(64, running=20, waiting=44, in_flight=0) == 64
    assert look(64, running=20, waiting=44, in_flight=0, kv=1.0) == 64


def test_whoever_looks_more_often_learns_no_faster() -> None:
    busy = Sample(64, 0, 0.5, 2000)
    state = Learned()

    for number in range(100):
        state = learned(state, busy, number * STEP_S_MIN / 100)

    assert state.permits == PERMITS_FIRST + 5


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**9),
            st.integers(0, 10**9),
            st.none() | st.floats(0, 1),
            st.integers(0, 10**6),
            st.floats(-1, 100),
        ),
        max_size=50,
    )
)
def test_whatever_an_engine_says_permits_stay_within_their_bounds(
    looks: list[tuple[int, int, float | None, int, float]],
) -> None:
    state, now_s = Learned(), 0.0
    for running, waiting, kv_usage, in_flight, later_s in looks:
        now_s += later_s
        before = state

        state = learned(state, Sample(running, waiting, kv_usage, in_flight), now_s)

        assert 1 <= state.permits <= PERMITS_MAX
        if state.permits > before.permits:
            assert waiting == 0
            assert kv_usage is None or kv_usage <= KV_USAGE_MAX
        if state.permits < before.permits:
            assert state.permits >= before.permits // 2
