"""Whether and when a child that ended is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.restart import GiveUp, Restart, RestartLimits, RestartState, after_exit

LIMITS = RestartLimits()


def exits(times_s: list[float], *, was_ready: bool = True, chance: float = 0.0) -> list[Restart | GiveUp]:
    """What is decided about one child that ends at each of `times_s`."""
    state, decisions = RestartState(), []
    for now_s in times_s:
        state, decision = after_exit(state, was_ready=was_ready, now_s=now_s, chance=chance, limits=LIMITS)
        decisions.append(decision)
    return decisions


def test_waits_double_with_each_restart_in_the_window() -> None:
    decisions = exits([0.0, 1.0, 2.0, 3.0, 4.0])

    assert decisions == [Restart(0.25), Restart(0.5), Restart(1.0), Restart(2.0), Restart(4.0)]


def test_a_child_that_falls_too_often_is_given_up() -> None:
    decisions = exits([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    assert decisions[-1] == GiveUp("it was restarted 5 times in 10 minutes")


def test_restarts_are_forgotten_after_the_window() -> None:
    decisions = exits([0.0, 1.0, 2.0, 3.0, 4.0, 700.0])

    assert decisions[-1] == Restart(0.25)


def test_a_child_that_never_became_ready_is_given_up_after_three_tries() -> None:
    decisions = exits([0.0, 1.0, 2.0], was_ready=False)

    assert decisions == [Restart(0.25), Restart(0.5), GiveUp("3 starts in a row failed")]


def test_one_good_start_makes_up_for_the_failed_ones() -> None:
    state = RestartState(failed_starts=2)

    after, decision = after_exit(state, was_ready=True, now_s=0.0, chance=0.0, limits=LIMITS)

    assert after.failed_starts == 0
    assert isinstance(decision, Restart)


def test_a_child_with_one_try_is_given_up_at_once() -> None:
    limits = RestartLimits(failed_starts_max=1)

    _, decision = after_exit(RestartState(), was_ready=False, now_s=0.0, chance=0.0, limits=limits)

    assert decision == GiveUp("it never became ready")


def test_a_lost_port_is_tried_again_at_once_and_counts_as_nothing() -> None:
    state = RestartState(restarts_s=(0.0,), failed_starts=1)

    after, decision = after_exit(
        state, was_ready=False, now_s=1.0, chance=0.5, limits=LIMITS, port_taken=True
    )

    assert (after.restarts_s, after.failed_starts, decision) == ((0.0,), 1, Restart(0.0))


def test_ports_that_are_lost_again_and_again_are_failures() -> None:
    state, decisions = RestartState(), []
    for _ in range(20):
        state, decision = after_exit(
            state, was_ready=False, now_s=0.0, chance=0.0, limits=LIMITS, port_taken=True
        )
        decisions.append(decision)

    assert decisions[: LIMITS.port_tries_max] == [Restart(0.0)] * LIMITS.port_tries_max
    assert isinstance(decisions[LIMITS.port_tries_max + LIMITS.failed_starts_max - 1], GiveUp)


@given(
    gaps_s=st.lists(st.floats(0.0, 2000.0), max_size=60),
    chance=st.floats(0.0, 1.0),
    was_ready=st.booleans(),
)
def test_no_window_ever_holds_more_restarts_than_allowed(
    gaps_s: list[float], chance: float, was_ready: bool
) -> None:
    now_s, times_s = 0.0, []
    for gap_s in gaps_s:
        now_s += gap_s
        times_s.append(now_s)

    decisions = exits(times_s, was_ready=was_ready, chance=chance)

    pairs = zip(times_s, decisions, strict=True)
    restarts_s = [at_s for at_s, decision in pairs if isinstance(decision, Restart)]
    for at_s in restarts_s:
        inside = [other for other in restarts_s if 0 <= at_s - other < LIMITS.window_s]
        assert len(inside) <= LIMITS.restarts_max


@given(chance=st.floats(0.0, 1.0), restarts=st.integers(0, 4))
def test_chance_only_ever_shortens_a_wait_and_by_no_more_than_the_jitter(
    chance: float, restarts: int
) -> None:
    state = RestartState(restarts_s=(0.0,) * restarts)
    _, longest = after_exit(state, was_ready=True, now_s=1.0, chance=0.0, limits=LIMITS)

    _, decision = after_exit(state, was_ready=True, now_s=1.0, chance=chance, limits=LIMITS)

    assert isinstance(longest, Restart)
    assert isinstance(decision, Restart)
    assert longest.wait_s * (1 - LIMITS.jitter) <= decision.wait_s <= longest.wait_s


def test_a_child_that_keeps_trying_is_given_up_before_it_was_ready_and_never_after() -> None:
    limits = RestartLimits(failed_starts_max=1, keeps_trying=True)
    state, decisions = RestartState(), []
    for number in range(20):
        state, decision = after_exit(
            state, was_ready=number < 3, now_s=30.0 * number, chance=0.0, limits=limits
        )
        decisions.append(decision)
    _, first = after_exit(RestartState(), was_ready=False, now_s=0.0, chance=0.0, limits=limits)

    assert decisions[-1] == Restart(limits.wait_s_max)
    assert first == GiveUp("it never became ready")


def test_a_child_that_a_disk_fails_is_given_up_before_it_was_ready_and_never_after() -> None:
    state, decisions = RestartState(restarts_s=(0.0,), has_been_ready=True), []
    for number in range(2000):
        state, decision = after_exit(
            state, was_ready=False, now_s=30.0 * number, chance=0.0, limits=LIMITS, disk_failed=True
        )
        decisions.append(decision)
    first = RestartState()
    for _ in range(LIMITS.failed_starts_max):
        first, given_up = after_exit(
            first, was_ready=False, now_s=0.0, chance=0.0, limits=LIMITS, disk_failed=True
        )

    assert decisions[:3] == [Restart(0.25), Restart(0.5), Restart(1.0)]
    assert decisions[-1] == Restart(LIMITS.wait_s_max)
    assert (state.restarts_s, state.failed_starts) == (
        (0.0,),
        0,
    )  # none of it counts once there is room again
    assert given_up == GiveUp("3 starts in a row failed")
