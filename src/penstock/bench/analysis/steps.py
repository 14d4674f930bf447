"""Sums over time, in bounded memory. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Of a load of two minutes, a step is a tenth of a second; of an hour, three seconds.
STEP_S = 0.1
STEPS_MAX = 1200


class Steps:
    """Sums over time in a bounded number of steps; the step doubles when they do not reach.

    Args:
        step_s: the first length of a step, seconds, above 0.
        steps_max: at least 2.
    """

    def __init__(self, step_s: float = STEP_S, steps_max: int = STEPS_MAX) -> None:
        self.step_s = step_s
        self._steps_max = steps_max
        self.sums: dict[int, float] = {}
        self.first_s, self.last_s = math.inf, -math.inf

    def add(self, times_s: Sequence[float], weights: Sequence[float] | float) -> None:
        """Adds weights at ascending times of at least 0; one weight stands for each."""
        if not times_s:
            return
        self.first_s, self.last_s = min(self.first_s, times_s[0]), max(self.last_s, times_s[-1])
        while times_s[-1] / self.step_s >= self._steps_max:
            self._double()
        sums, per_s = self.sums, 1 / self.step_s
        if isinstance(weights, int | float):
            for at_s in times_s:
                step = int(at_s * per_s)
                sums[step] = sums.get(step, 0.0) + weights
            return
        for at_s, weight in zip(times_s, weights, strict=True):
            step = int(at_s * per_s)
            sums[step] = sums.get(step, 0.0) + weight

    def between(self, begins_s: float, ends_s: float) -> float:
        """The sum between two times: of a step at an edge, so large a part as its seen time lies within."""
        total = 0.0
        for step, value in self.sums.items():
            low, high = max(step * self.step_s, self.first_s), min((step + 1) * self.step_s, self.last_s)
            if high > low:
                total += value * max(0.0, min(1.0, (min(high, ends_s) - max(low, begins_s)) / (high - low)))
            elif begins_s <= low <= ends_s:
                total += value
        return total

    def at_least(self, step_s: float) -> None:
        """Doubles the step until it is so long."""
        while self.step_s < step_s:
            self._double()

    def _double(self) -> None:
        halves, self.sums = self.sums, {}
        self.step_s *= 2
        for step, value in halves.items():
            self.sums[step // 2] = self.sums.get(step // 2, 0.0) + value
