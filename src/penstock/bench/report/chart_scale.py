"""From values to places on paper: ticks that people would have chosen, linear or logarithmic. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.bench.report.shown import number, scaled

# More labels than this touch each other.
TICKS_WANTED = 5
# Of 1 and of the value itself: what differs by less is one value; on a logarithmic axis there is nothing below it.
_LENGTH_MIN = 1e-12
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """What one direction of a chart shows.

    Args:
        label: what it is of, such as `TTFT`; its unit is added.
        unit: see `shown`.
        log: equal steps are equal factors; others than values above 0 are at its beginning then.
        at: values that get a line, in place of round ones, such as the loads of a sweep; in no unit that is scaled.
        least, most: the ends; None fits them to the values. A linear axis without `least` begins at 0.
    """

    label: str
    unit: str = ""
    log: bool = False
    at: tuple[float, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis on paper.

    Args:
        axis: what it shows.
        low, high: values at its ends.
        begins, ends: places of its ends, pixels.
    """

    axis: Axis
    low: float
    high: float
    begins: float
    ends: float

    @classmethod
    def of(cls, axis: Axis, values: Iterable[float], begins: float, ends: float) -> Scale:
        """The scale on which all `values` have a place."""
        held = [value for value in values if math.isfinite(value) and (value > _LENGTH_MIN or not axis.log)]
        low, high = (min(held), max(held)) if held else (1.0, 1.0)
        if axis.log:
            low, high = (min(axis.at), max(axis.at)) if axis.at else _decades(low, high)
        else:
            low = min(0.0, low)
        low = low if axis.least is None else axis.least
        high = high if axis.most is None else axis.most
        if high - low <= _LENGTH_MIN * max(1.0, abs(high)) and not (axis.log and high > low * 1.001):
            high = low * 2.5 if axis.log else low + 1.0
        if not axis.log and axis.most is None:
            step = _step(high - low)
            high = math.ceil(high / step - 1e-9) * step
        return cls(axis, low, high, begins, ends)

    def place(self, value: float) -> float:
        """Where a value is, pixels; one beyond the ends is at the end."""
        if self.axis.log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.begins + min(1.0, max(0.0, part)) * (self.ends - self.begins)

    @property
    def suffix(self) -> str:
        """The unit that its labels are in."""
        return scaled(self.axis.unit, self.high)[1]

    def ticks(self) -> list[tuple[float, str]]:
        """Values that get a line, and their labels."""
        factor, _ = scaled(self.axis.unit, self.high)
        if self.axis.at:
            return [(value, f"{value:g}") for value in self.axis.at]
        if self.axis.log:
            return [(value, number(value * factor, 1)) for value in _log_ticks(self.low, self.high)]
        step = _step((self.high - self.low) * factor)
        first = math.ceil(self.low * factor / step - 1e-9)
        last = math.floor(self.high * factor / step + 1e-9)
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        places += 1 if step / 10 ** math.floor(math.log10(step) + 1e-9) == 2.5 else 0
        return [(k * step / factor, f"{k * step:,.{places}f}") for k in range(first, last + 1)]


def _step(length: float) -> float:
    """The distance of ticks on a length above 0: 1, 2, 2.5 or 5 times a power of ten."""
    rough = length / TICKS_WANTED
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))


def _decades(low: float, high: float) -> tuple[float, float]:
    """The nearest 1, 2 or 5 times a power of ten below and above."""
    return max(each for each in _round(low) if each <= low), min(
        each for each in _round(high) if each >= high
    )


def _round(value: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10(value))
    return [power * step for step in (0.5, 1.0, 2.0, 5.0, 10.0)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 within few decades; only their beginnings within many."""
    first, last = math.floor(math.log10(low) - 1e-9), math.ceil(math.log10(high) + 1e-9)
    steps = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
