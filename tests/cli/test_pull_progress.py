"""How far a pull is, as people and programs are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.pull_progress import LINE_EVERY_S, Lines, far
from penstock.engines.progress import WINDOW_S, Pace, Standing, Tally, left_s
from penstock.planner.repository import Listed

FILES = (Listed("a", 100), Listed("b", 300))


def standing(have: int, fetched: int = 0, checked: int = 0) -> Standing:
    return Standing(400, have, fetched, checked, 2, 0, ())


def test_a_tally_counts_what_is_here_and_what_came() -> None:
    tally = Tally(FILES)

    tally.found(FILES[1], 200)
    tally.received(FILES[0], 40)
    tally.received(FILES[1], 60)
    tally.ended(FILES[0])

    assert tally.standing() == Standing(400, 360, 100, 0, 2, 1, (("b", 260, 300),))


def test_notes_are_told_once() -> None:
    tally = Tally(FILES)
    tally.note("one")

    assert (tally.notes(), tally.notes()) == (("one",), ())


def test_a_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    for second in range(60):
        pace.rate(second * 100, float(second))

    fast = [pace.rate(5900 + step * 1000, 59.0 + step) for step in range(1, 30)]

    assert fast[-1] == pytest.approx(1000)
    assert 100 < fast[0] < 1000


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0.001, 100)), min_size=1, max_size=50))
def test_a_rate_is_never_negative_and_looks_at_its_window_alone(steps: list[tuple[int, float]]) -> None:
    pace, total, now_s = Pace(), 0, 0.0
    seen: list[tuple[float, int]] = []
    for more, wait_s in steps:
        total, now_s = total + more, now_s + wait_s
        seen.append((now_s, total))
        rate = pace.rate(total, now_s)
        recent = [(at, count) for at, count in seen if at >= now_s - WINDOW_S]
        assert rate >= 0
        if len(recent) == len(seen) > 1:
            assert rate == pytest.approx((total - seen[0][1]) / (now_s - seen[0][0]))


@pytest.mark.parametrize(
    ("at", "rate", "said"),
    [
        (standing(100, 100), 50.0, "100 B of 400 B (25 %), 50 B/s, 6s left"),
        (standing(100), 0.0, "100 B of 400 B (25 %)"),
        (standing(400, 0, 120), 0.0, "checking: 120 B of 400 B read"),
    ],
)
def test_a_line_says_how_far_it_is_how_fast_and_how_long_still(at: Standing, rate: float, said: str) -> None:
    assert far(at, rate) == said


def test_nothing_is_said_of_the_end_without_a_rate() -> None:
    assert left_s(standing(100), 0.0) is None
    assert left_s(standing(100), 100.0) == 3.0


def test_lines_come_now_and_then() -> None:
    said: list[str] = []
    now_s = 0.0
    lines = Lines(said.append, lambda: now_s)
    for _ in range(100):
        now_s += 0.25
        lines.show(standing(100, 100))

    assert len(said) == int(25 // LINE_EVERY_S)
