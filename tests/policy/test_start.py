"""How long a start may take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.start import SILENCES_MAX, Progress, StartState, after_look, begin, overdue

SILENCE_S = 100.0


def looked_at(*looks: tuple[float, Progress]) -> StartState:
    """A start that began at 0, after looks at it."""
    state = begin(0.0)
    for now_s, progress in looks:
        state = after_look(state, progress, now_s)
    return state


def test_a_start_that_does_nothing_is_overdue_after_the_silence() -> None:
    state = looked_at((1.0, Progress(10, 0.5, 0, 1)), (50.0, Progress(10, 0.5, 0, 1)))

    assert overdue(state, 100.0, SILENCE_S) == ""
    assert (
        overdue(state, 101.0, SILENCE_S) == "it has neither written nor computed nor read anything for 2 min"
    )


def test_words_work_reading_and_new_processes_are_progress() -> None:
    was = Progress(10, 1.0, 10**6, 2)
    for now in (
        Progress(11, 1.0, 10**6, 2),
        Progress(10, 5.0, 10**6, 2),
        Progress(10, 1.0, 10**9, 2),
        Progress(10, 1.0, 10**6, 3),
    ):
        assert looked_at((1.0, was), (90.0, now)).moved_s == 90.0


def test_the_idle_wake_ups_of_a_program_that_waits_are_no_progress() -> None:
    looks = [
        (float(second), Progress(10, 0.5 + second * 0.001, second * 512, 1)) for second in range(1, 100, 5)
    ]

    assert looked_at(*looks).moved_s == 1.0


def test_what_is_busy_for_ever_is_overdue_too() -> None:
    looks = [(float(second), Progress(0, float(second), 0, 1)) for second in range(1, 900)]
    state = looked_at(*looks)

    assert overdue(state, 799.0, SILENCE_S) == ""
    assert "is busy but has not become ready" in overdue(state, SILENCES_MAX * SILENCE_S, SILENCE_S)


@given(
    gaps_s=st.lists(st.floats(0.1, 90.0), min_size=1, max_size=50),
    silence_s=st.floats(91.0, 10_000.0),
)
def test_what_writes_before_each_silence_is_over_is_left_alone_until_the_end(
    gaps_s: list[float], silence_s: float
) -> None:
    now_s, state = 0.0, begin(0.0)
    for count, gap_s in enumerate(gaps_s, 1):
        now_s += gap_s
        state = after_look(state, Progress(count, 0.0, 0, 1), now_s)

    assert (overdue(state, now_s, silence_s) != "") == (now_s >= SILENCES_MAX * silence_s)
