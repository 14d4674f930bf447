"""Reading logs: their end, what came since, and what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.supervisor.logfile import LogFile, times_of
from penstock.supervisor.logtail import LogTail

NOON = 1_795_000_000.0


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[[], LogTail]]:
    """Makes readers of `log` in the test's folder."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(LogTail("demo-0", tmp_path / "log")))


def texts(lines: object) -> list[str]:
    return [line.text for line in lines]  # type: ignore[attr-defined]  # lines


def minutes(log: LogFile, clock: Clock, count: int) -> None:
    """Writes a line each minute."""
    for number in range(count):
        log.append(b"minute %d\n" % number)
        clock.now_s += 60


def test_the_last_lines_are_read_across_files(
    tmp_path: Path, clock: Clock, read: Callable[[], LogTail]
) -> None:
    minutes(LogFile(tmp_path / "log", bytes_max=20, now=clock), clock, 6)

    assert texts(read().so_far(3, 0.0)) == ["minute 3", "minute 4", "minute 5"]
    assert len(read().so_far(None, 0.0)) == 6
    assert read().so_far(0, 0.0) == []


def test_what_came_since_a_time_is_read_across_files(
    tmp_path: Path, clock: Clock, read: Callable[[], LogTail]
) -> None:
    minutes(LogFile(tmp_path / "log", bytes_max=20, now=clock), clock, 6)

    lines = read().so_far(None, NOON + 170)

    assert [(line.at, line.name, line.text) for line in lines] == [
        (NOON + 180, "demo-0", "minute 3"),
        (NOON + 240, "demo-0", "minute 4"),
        (NOON + 300, "demo-0", "minute 5"),
    ]
    assert read().so_far(None, clock.now_s) == []


def test_a_log_without_times_is_shown_whole(
    tmp_path: Path, clock: Clock, read: Callable[[], LogTail]
) -> None:
    minutes(LogFile(tmp_path / "log", now=clock), clock, 2)
    times_of(tmp_path / "log").unlink()

    lines = read().so_far(None, clock.now_s)

    assert [(line.at, line.text) for line in lines] == [(0.0, "minute 0"), (0.0, "minute 1")]


def test_what_comes_is_told_once_and_only_in_whole_lines(tmp_path: Path, read: Callable[[], LogTail]) -> None:
    log = LogFile(tmp_path / "log")
    log.append(b"before\nhalf a ")
    tail = read()

    before = tail.so_far(None, 0.0)
    log.append(b"line\nand ")
    first = tail.fresh()
    second = tail.fresh()
    log.append(b"more\n")

    assert (texts(before), texts(first), second) == (["before"], ["half a line"], [])
    assert texts(tail.fresh()) == ["and more"]


def test_a_log_that_is_not_there_yet_is_followed_from_its_begin(
    tmp_path: Path, read: Callable[[], LogTail]
) -> None:
    tail = read()
    assert tail.so_far(10, 0.0) == tail.fresh() == []

    LogFile(tmp_path / "log", bytes_max=10).append(b"first\nsecond\nthird\n")

    assert texts(tail.fresh()) == ["first", "second", "third"]


def test_a_log_that_was_made_anew_is_followed(
    tmp_path: Path, clock: Clock, read: Callable[[], LogTail]
) -> None:
    log = LogFile(tmp_path / "log", now=clock)
    log.append(b"old\n")
    tail = read()
    tail.so_far(None, 0.0)

    (tmp_path / "log").unlink()
    clock.now_s += 2
    log.append(b"new\n")
    log.append(b"and more\n")

    assert texts(tail.fresh()) == ["new", "and more"]


@settings(max_examples=40, deadline=None)
@given(rounds=st.lists(st.integers(0, 6), max_size=8), bytes_max=st.integers(20, 60))
def test_a_follower_misses_nothing_while_files_are_turned_over(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[int], bytes_max: int
) -> None:
    folder, written, found = tmp_path_factory.mktemp("log"), [], []
    log = LogFile(folder / "log", bytes_max=bytes_max)
    with closing(LogTail("demo-0", folder / "log")) as tail:
        tail.so_far(None, 0.0)
        for count in rounds:
            for _ in range(count):
                written.append(f"line {len(written)}")
                log.append(f"{written[-1]}\n".encode())
            found += texts(tail.fresh())
    log.close()

    assert found == written
