"""Numbers over time, in bounded memory, and what is asked of them. Pure: no clock, no socket."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

# An hour of one reading a second. Longer loads keep every second point, then every fourth: a chart has no more pixels.
POINTS_MAX = 3600

Point = tuple[float, float]  # seconds, value


class Series:
    """A level over time, or the growth of a counter since its first reading.

    A counter that went back was reset, so its engine was started anew: what it shows then has been added since.

    Args:
        counter: what is given are a counter's totals.
        points_max: how many points are kept, at least 4.
    """

    __slots__ = (
        "_counter",
        "_every",
        "_grown",
        "_points",
        "_points_max",
        "_seen",
        "_total",
        "last",
        "resets",
    )

    def __init__(self, *, counter: bool = False, points_max: int = POINTS_MAX) -> None:
        self._counter = counter
        self._points_max = points_max
        self._points: list[Point] = []
        self._every = 1
        self._seen = 0
        self._total: float | None = None
        self._grown = 0.0
        self.last: Point | None = None
        self.resets = 0

    def add(self, at_s: float, value: float) -> None:
        """Notes a reading; times ascend."""
        if self._counter:
            value = self._growth(value)
        self.last = (at_s, value)
        if self._seen % self._every == 0:
            self._points.append(self.last)
            if len(self._points) > self._points_max:
                del self._points[1::2]
                self._every *= 2
        self._seen += 1

    def points(self, origin_s: float = 0.0) -> list[Point]:
        """The points that were kept, and the last one, in seconds since `origin_s`."""
        points = list(self._points)
        if self.last is not None and points[-1] != self.last:
            points.append(self.last)
        return [(at_s - origin_s, value) for at_s, value in points]

    def _growth(self, total: float) -> float:
        before, self._total = self._total, total
        if before is None:
            return 0.0
        if total < before:
            self.resets += 1
            before = 0.0
        self._grown += total - before
        return self._grown


def value_at(points: Sequence[Point], at_s: float) -> float:
    """The value at a time, on the straight line between its neighbours; before the first point, and after the last,
    theirs.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("a series without points has no value")
    after = bisect_right(points, at_s, key=lambda point: point[0])
    if after == 0:
        return points[0][1]
    if after == len(points):
        return points[-1][1]
    (begins_s, low), (ends_s, high) = points[after - 1], points[after]
    return low + (high - low) * (at_s - begins_s) / (ends_s - begins_s)


def growth(points: Sequence[Point], begins_s: float, ends_s: float) -> float:
    """How much a counter grew between two times."""
    return value_at(points, ends_s) - value_at(points, begins_s) if points else 0.0


def integral(points: Sequence[Point], begins_s: float, ends_s: float) -> float:
    """The area under a level between two times, such as joules under watts: straight lines between its points."""
    if not points or ends_s <= begins_s:
        return 0.0
    inner = [point for point in points if begins_s < point[0] < ends_s]
    ends = [(begins_s, value_at(points, begins_s)), *inner, (ends_s, value_at(points, ends_s))]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(ends))


def mean(points: Sequence[Point], begins_s: float, ends_s: float) -> float | None:
    """The mean of a level over a time; None where there is no point or no time."""
    if not points or ends_s <= begins_s:
        return None
    return integral(points, begins_s, ends_s) / (ends_s - begins_s)


def together(all_points: Sequence[Sequence[Point]], join: Callable[[Iterable[float]], float]) -> list[Point]:
    """One series of several: at the times of the first one, from when all have begun until the first one to end has."""
    held = [points for points in all_points if points]
    if len(held) <= 1:
        return list(held[0]) if held else []
    begins_s, ends_s = max(points[0][0] for points in held), min(points[-1][0] for points in held)
    times = [at_s for at_s, _ in held[0] if begins_s <= at_s <= ends_s]
    return [(at_s, join([value_at(points, at_s) for points in held])) for at_s in times]
