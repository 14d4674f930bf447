"""Permits are never lost or given twice, and nobody is turned away but for a reason that holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import Address
from penstock.policy.admit import (
    ADMITTED,
    RETRY_AFTER_S_MAX,
    RETRY_AFTER_S_MIN,
    SAMPLES_MIN,
    WAITING,
    Admission,
    Decision,
    Pace,
    Reason,
    Verdict,
    capacity_of,
)
from penstock.policy.breaker import Breaker, Trust
from penstock.policy.fair import WAITS, Entry
from penstock.policy.fleet import Replica, State
from penstock.policy.permits import PERMITS_UNKNOWN

LONG_S = 1e6


def entry(tenant: str = "a", cost_tokens: int = 100, priority: str = "standard") -> Entry:
    return Entry(tenant, weight=1.0, priority=priority, cost_tokens=cost_tokens)


def arrived(admission: Admission, tenant: str = "a", cost_tokens: int = 100) -> Entry:
    new = entry(tenant, cost_tokens)
    assert admission.arrive(new, LONG_S).verdict is not Verdict.REJECT
    return new


def measured(*, hold_s: float, capacity: int = 1, queue_len_max: int = 100) -> Admission:
    """An admission that knows how long permits are held for 100 tokens, all its permits out."""
    admission = Admission(queue_len_max=queue_len_max, capacity=capacity)
    for _ in range(SAMPLES_MIN):
        admission.release(arrived(admission), actual_tokens=None, hold_s=hold_s)
    for _ in range(capacity):
        arrived(admission)
    return admission


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("arrive"), st.sampled_from("abc"), st.integers(1, 900), st.sampled_from([-1.0, 0.5, 60.0])
        ),
        st.tuples(st.just("release"), st.integers(0, 999), st.sampled_from([None, 0, 50, 5000])),
        st.tuples(st.just("abandon"), st.integers(0, 999)),
        st.tuples(st.just("capacity"), st.integers(0, 5)),
    ),
    max_size=150,
)


@given(STEPS, st.integers(0, 8), st.booleans())
def test_no_permit_is_lost_or_given_beyond_the_capacity(
    steps: list[tuple], queue_len_max: int, sheds: bool
) -> None:
    admission = Admission(queue_len_max=queue_len_max, sheds=sheds, capacity=2)
    waiting: set[Entry] = set()
    holding: list[Entry] = []
    for kind, *args in steps:
        out_before = admission.out
        if kind == "arrive":
            new = entry(args[0], args[1])
            decision = admission.arrive(new, args[2])
            if decision.verdict is Verdict.ADMIT:
                holding.append(new)
            elif decision.verdict is Verdict.WAIT:
                waiting.add(new)
            if decision.loser is not None:
                waiting.remove(decision.loser)
        elif kind == "release" and holding:
            leaver = holding.pop(args[0] % len(holding))
            assert admission.release(leaver, actual_tokens=args[1], hold_s=1.0)
            assert not admission.release(leaver, actual_tokens=args[1], hold_s=1.0)
        elif kind == "abandon" and waiting:
            leaver = sorted(waiting, key=id)[args[0] % len(waiting)]
            assert admission.abandon(leaver)
            assert not admission.abandon(leaver)
            waiting.remove(leaver)
        elif kind == "capacity":
            admission.capacity = args[0]
        while (first := admission.next_admitted()) is not None:
            waiting.remove(first)
            holding.append(first)

        assert admission.out == len(holding)
        assert admission.line.length == len(waiting) <= queue_len_max
        assert admission.out <= max(admission.capacity, out_before)
        assert not waiting or admission.out >= admission.capacity


def test_a_free_permit_is_given_at_once() -> None:
    admission = Admission(queue_len_max=0, capacity=1)

    assert admission.arrive(entry(), -5.0) is ADMITTED
    assert admission.out == 1


def test_without_a_free_permit_one_waits() -> None:
    admission = Admission(queue_len_max=1, capacity=0)
    new = entry()

    assert admission.arrive(new, 5.0) is WAITING
    assert new.stand == WAITS
    assert admission.next_admitted() is None


def test_nobody_passes_those_who_wait() -> None:
    admission = Admission(queue_len_max=5, capacity=0)
    first = arrived(admission)
    admission.capacity = 1

    assert admission.arrive(entry(), 5.0) is WAITING
    assert admission.next_admitted() is first


def test_a_full_line_turns_away_with_a_time_to_come_back() -> None:
    admission = Admission(queue_len_max=2, capacity=0)
    for _ in range(2):
        arrived(admission)

    assert admission.arrive(entry(), 5.0) == Decision(
        Verdict.REJECT, Reason.QUEUE_FULL, retry_after_s=RETRY_AFTER_S_MIN
    )


def test_a_full_line_makes_room_for_a_tenant_that_has_less_than_its_share() -> None:
    admission = Admission(queue_len_max=3, capacity=0)
    heavy = [arrived(admission, "heavy") for _ in range(3)]

    decision = admission.arrive(entry("light"), 5.0)

    assert decision == Decision(Verdict.WAIT, loser=heavy[-1])
    assert admission.line.length == 3
    assert heavy[-1].stand != WAITS


@pytest.mark.parametrize("time_left_s", [0.0, -1.0, float("nan")])
def test_a_request_without_time_left_does_not_wait(time_left_s: float) -> None:
    admission = Admission(queue_len_max=3, capacity=0)

    assert admission.arrive(entry(), time_left_s).reason is Reason.QUEUE_TIMEOUT


def test_a_wait_beyond_the_deadline_is_turned_away_at_once_and_told() -> None:
    admission = measured(hold_s=10.0)
    for _ in range(3):
        arrived(admission)

    # half of one that runs, and three whole ones
    assert admission.arrive(entry(), 34.0) == Decision(
        Verdict.REJECT, Reason.PREDICTED_WAIT_TOO_LONG, retry_after_s=35
    )
    assert admission.arrive(entry(), 36.0) is WAITING


def test_a_wait_that_was_never_measured_turns_nobody_away() -> None:
    admission = Admission(queue_len_max=100, capacity=1)
    for _ in range(SAMPLES_MIN - 1):
        admission.release(arrived(admission), actual_tokens=None, hold_s=1000.0)
    arrived(admission)

    assert admission.predicted_wait_s(entry()) is None
    assert admission.arrive(entry(), 0.1) is WAITING


def test_while_no_replica_is_there_nothing_is_foretold() -> None:
    admission = measured(hold_s=10.0)
    admission.capacity = 0

    assert admission.predicted_wait_s() is None
    assert admission.arrive(entry(), 0.1) is WAITING


def test_without_shedding_one_waits_as_long_as_one_likes() -> None:
    admission = measured(hold_s=10.0)
    admission.sheds = False

    assert admission.arrive(entry(), 0.1) is WAITING


def test_a_light_tenant_is_not_turned_away_for_the_line_of_a_heavy_one() -> None:
    admission = measured(hold_s=1.0)
    for _ in range(50):
        arrived(admission, "heavy")

    assert admission.arrive(entry("heavy"), 10.0).reason is Reason.PREDICTED_WAIT_TOO_LONG
    assert admission.arrive(entry("light"), 10.0) is WAITING


def test_the_wait_of_the_last_in_line_is_nothing_while_a_permit_is_free() -> None:
    assert Admission(queue_len_max=1, capacity=1).predicted_wait_s() == 0.0


def test_the_wait_is_that_of_a_line_before_so_many_permits() -> None:
    admission = measured(hold_s=6.0, capacity=3)
    for _ in range(6):
        arrived(admission)

    assert admission.predicted_wait_s() == pytest.approx(6.0 / 4 + 6 * 6.0 / 3)


@given(st.floats(0, 1e9), st.integers(1, 10**7))
def test_a_time_to_come_back_is_within_its_bounds(hold_s: float, cost_tokens: int) -> None:
    admission = measured(hold_s=hold_s)
    arrived_late = entry(cost_tokens=cost_tokens)

    assert RETRY_AFTER_S_MIN <= admission.retry_after_s(arrived_late) <= RETRY_AFTER_S_MAX


def test_the_pace_follows_a_change_and_starts_without_a_bias() -> None:
    pace = Pace()
    pace.add(2.0, 100)
    pace.add(4.0, 300)
    assert (pace.hold_s, pace.cost_tokens) == (3.0, 200.0)

    for _ in range(200):
        pace.add(10.0, 50)

    assert pace.hold_s == pytest.approx(10.0, rel=0.01)
    assert pace.cost_tokens == pytest.approx(50.0, rel=0.01)


def test_a_clock_that_went_backwards_holds_nothing_for_less_than_no_time() -> None:
    pace = Pace()
    pace.add(-100.0, 1)

    assert pace.hold_s == 0.0


def test_a_permit_that_was_not_used_is_not_counted_in_the_pace() -> None:
    admission = Admission(queue_len_max=0, capacity=1)
    admission.release(arrived(admission), actual_tokens=0, hold_s=None)

    assert admission.pace.samples == 0
    assert admission.out == 0


A, B = (Replica(name, "m", "sim", Address("h", 1), "", state=State.READY) for name in "ab")
CONCURRENCY = {"a": 4, "b": 3}


@pytest.mark.parametrize(
    ("breaker", "permits"),
    [
        (Breaker(), 7),
        (Breaker(Trust.OPEN, until_s=10.1), 4),
        (Breaker(Trust.OPEN, until_s=10.0), 5),
        (Breaker(Trust.HALF_OPEN, until_s=1.0, probe_s=9.0), 5),
    ],
    ids=["trusted", "ejected", "may be probed", "is probed"],
)
def test_an_ejected_replica_gives_no_permits_but_one_to_probe_it(breaker: Breaker, permits: int) -> None:
    assert capacity_of([A, B], {"b": breaker}, CONCURRENCY, 10.0) == permits


def test_where_all_are_ejected_all_give_their_permits() -> None:
    ejected = Breaker(Trust.OPEN, until_s=99.0)

    assert capacity_of([A, B], {"a": ejected, "b": ejected}, CONCURRENCY, 10.0) == 7


def test_a_model_without_ready_replicas_has_no_permits() -> None:
    assert capacity_of([], {}, CONCURRENCY, 10.0) == 0


def test_a_replica_of_unknown_size_gives_what_engines_run_at_least() -> None:
    assert capacity_of([A], {}, {}, 10.0) == PERMITS_UNKNOWN
