"""`Times`: how long something took, many times over, as Prometheus counts it."""

from __future__ import annotations

from bisect import bisect_left


class Times:
    """A histogram: how many values were at most each bound, and their sum.

    Args:
        bounds: seconds, ascending.
    """

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """Counts one value, or several that are the same."""
        self.counts[bisect_left(self.bounds, seconds)] += count
        self.sum_s += seconds * count

    def add(self, others: Times) -> None:
        """Counts what others have counted, by the same bounds."""
        self.counts = [own + other for own, other in zip(self.counts, others.counts, strict=True)]
        self.sum_s += others.sum_s
