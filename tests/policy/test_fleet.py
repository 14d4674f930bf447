"""A replica's state moves as the table says, and a snapshot of the fleet never changes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import Address
from penstock.policy.fleet import SERVING, Event, Fleet, Replica, State

MOVES = {
    State.ABSENT: {Event.REGISTERED: State.STARTING},
    State.STARTING: {Event.UNREADY: State.LOADING, Event.HEALTHY: State.WARMING},
    State.LOADING: {Event.HEALTHY: State.WARMING, Event.REFUSED: State.STARTING},
    State.WARMING: {
        Event.WARMED: State.READY,
        Event.MUTE: State.READY,
        Event.UNREADY: State.LOADING,
        Event.REFUSED: State.STARTING,
        Event.DRAIN: State.DRAINING,
    },
    State.READY: {
        Event.FULL: State.BUSY,
        Event.STALL: State.STALLED,
        Event.UNREADY: State.LOADING,
        Event.REFUSED: State.STARTING,
        Event.DRAIN: State.DRAINING,
    },
    State.BUSY: {
        Event.ROOM: State.READY,
        Event.STALL: State.STALLED,
        Event.UNREADY: State.LOADING,
        Event.REFUSED: State.STARTING,
        Event.DRAIN: State.DRAINING,
    },
    State.STALLED: {
        Event.RESUMED: State.WARMING,
        Event.UNREADY: State.LOADING,
        Event.REFUSED: State.STARTING,
        Event.DRAIN: State.DRAINING,
    },
    State.DRAINING: {Event.UNDRAIN: State.WARMING, Event.REFUSED: State.STARTING},
    State.STOPPED: {},
}
PROOFS = {Event.WARMED, Event.MUTE}


def replica(name: str = "a", model: str = "m", state: State = State.STARTING) -> Replica:
    return Replica(name, model, "remote", Address("h", 1), "sk-secret", state=state)


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_pair_moves_as_listed_or_changes_no_state(state: State, event: Event) -> None:
    before = replica(state=state)

    after = before.after(event, "because", 7.0)

    expected = State.STOPPED if event is Event.GONE else MOVES[state].get(event, state)
    assert after.state is expected
    assert after.since_s == (before.since_s if expected is state or {expected, state} == SERVING else 7.0)
    assert replace(after, state=state, cause="", evidence="", since_s=0.0) == replace(before, cause="")


@given(st.lists(st.sampled_from(Event)))
def test_nothing_brings_a_stopped_replica_back(events: list[Event]) -> None:
    stopped = replica(state=State.STOPPED)
    for event in events:
        stopped = stopped.after(event, "because", 1.0)

    assert stopped.state is State.STOPPED


@given(st.lists(st.sampled_from(Event)))
def test_only_a_canary_that_came_makes_a_replica_ready(events: list[Event]) -> None:
    now = replica()
    for event in events:
        before, now = now, now.after(event, "because", 1.0)

        assert now.state not in SERVING or before.state in SERVING or event in PROOFS


@given(st.lists(st.sampled_from(Event)))
def test_what_stalled_is_not_ready_again_by_a_health_check(events: list[Event]) -> None:
    now = replica(state=State.STALLED)
    for event in events:
        now = now.after(event, "because", 1.0)
        if event in PROOFS:
            break

        assert now.state not in SERVING


@given(st.lists(st.sampled_from([Event.FULL, Event.ROOM, Event.HEALTHY, Event.SLOW])))
def test_to_be_busy_and_not_so_any_more_is_no_return(events: list[Event]) -> None:
    now = replace(replica(state=State.READY), since_s=3.0)
    for event in events:
        now = now.after(event, "because", 9.0)

    assert now.state in SERVING
    assert now.since_s == 3.0


def test_the_evidence_of_a_stall_stays_until_it_is_over() -> None:
    stalled = replica(state=State.READY).after(Event.STALL, "no progress", 1.0, "3 requests, no step")

    assert stalled.after(Event.HEALTHY, "/health says 200", 2.0) is stalled
    assert stalled.after(Event.RESUMED, "a token came", 3.0).cause == "a token came"


@given(st.lists(st.sampled_from(Event)))
def test_a_slow_health_check_proves_nothing(events: list[Event]) -> None:
    now = replica()
    for event in events:
        now = now.after(event, "because", 1.0)

        assert now.after(Event.SLOW, "slow", 2.0).state is now.state


def test_a_replica_that_stays_unready_tells_the_latest_cause() -> None:
    loading = replica(state=State.LOADING)

    assert loading.after(Event.UNREADY, "/health says 503", 1.0).cause == "/health says 503"


def test_a_ready_replica_that_stays_so_is_the_same_object() -> None:
    ready = replica(state=State.READY)

    assert ready.after(Event.HEALTHY, "/health says 200", 1.0) is ready


def test_a_replicas_key_is_not_in_what_it_prints() -> None:
    assert "sk-secret" not in repr(Fleet((replica(),)))


def test_a_snapshot_does_not_change_when_a_new_one_is_made() -> None:
    fleet = Fleet((replica("a"), replica("b")))

    fleet.with_replica(replica("c"))
    fleet.with_replica(replica("a", state=State.READY))
    fleet.without("a")

    assert fleet == Fleet((replica("a"), replica("b")))
    with pytest.raises(FrozenInstanceError):
        fleet.replicas = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        fleet.replicas[0].state = State.READY  # type: ignore[misc]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(State), st.booleans())))
def test_the_fleet_is_what_was_put_in_last_in_the_order_of_arrival(
    steps: list[tuple[str, State, bool]],
) -> None:
    fleet = Fleet()
    expected: dict[str, Replica] = {}
    for name, state, stays in steps:
        if stays:
            expected[name] = replica(name, state=state)
            fleet = fleet.with_replica(expected[name])
        else:
            expected.pop(name, None)
            fleet = fleet.without(name)

    assert fleet.replicas == tuple(expected.values())
    assert all(fleet.get(name) == expected.get(name) for name in "abc")


def test_only_ready_and_busy_replicas_of_the_model_are_given_requests() -> None:
    others = [replica(state.value, state=state) for state in State]
    fleet = Fleet((*others, replica("x", "other", State.READY)))

    assert [found.name for found in fleet.ready("m")] == ["ready", "busy"]
    assert fleet.of_model("m") == tuple(others)


def test_the_reason_names_each_replica_its_state_and_its_cause() -> None:
    fleet = Fleet((replica("a"), replace(replica("b"), state=State.LOADING, cause="/health says 503")))

    assert fleet.unready_reason("m") == "a is starting: not asked yet; b is loading: /health says 503"
    assert fleet.unready_reason("none") == "no replica is running"
