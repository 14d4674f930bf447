"""A source is read again and again, and one that hangs holds up nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from penstock.exporter.watch import STALE_AFTER_S_MIN, Watch

PATIENCE_S = 20.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def watch(
    read: Callable[[], int], clock: Clock, errors: list[tuple[str, Exception]], every_s: float = 0.001
) -> Watch[int]:
    return Watch("disk", read, every_s, clock, lambda name, error: errors.append((name, error)))


def test_a_reading_is_kept_with_its_time_until_it_is_old() -> None:
    clock = Clock()

    def read() -> int:
        clock.now_s += 2.0
        return 7

    source = watch(read, clock, [])
    assert source.latest is None
    source.read_once()

    assert source.latest is not None
    assert (source.latest.found, source.latest.at_s, source.latest.took_s) == (7, 102.0, 2.0)
    clock.now_s += STALE_AFTER_S_MIN + 1
    assert source.latest is None
    assert source.silent_s == STALE_AFTER_S_MIN + 1


def test_an_exception_is_told_and_the_next_reading_is_made() -> None:
    errors: list[tuple[str, Exception]] = []
    twice = threading.Event()

    def read() -> int:
        if len(errors) >= 2:
            twice.set()
            return 1
        raise OSError("broken")

    source = watch(read, Clock(), errors)
    source.start()
    try:
        assert twice.wait(PATIENCE_S)
    finally:
        source.stop(PATIENCE_S)

    assert {str(error) for _, error in errors} == {"broken"}
    assert source.reads >= 1


def test_a_source_that_hangs_stops_neither_who_asks_nor_who_ends_it() -> None:
    clock, begun, release = Clock(), threading.Event(), threading.Event()

    def read() -> int:
        begun.set()
        release.wait(PATIENCE_S)
        return 1

    source = watch(read, clock, [])
    source.start()
    assert begun.wait(PATIENCE_S)
    clock.now_s += 60.0

    assert source.latest is None
    assert source.silent_s == pytest.approx(60.0)
    source.stop(within_s=0.01)
    release.set()
