"""Numbers for people: one way to write a duration, a rate or a share, for tables, reports and charts alike. Pure.

A unit is text: `s` for durations, `elapsed` for times since the start of the load, `share` for parts of 1, `bytes`;
any other one is shown as it is, such as `tokens/s`.
"""

from __future__ import annotations

import math

DURATION = "s"
ELAPSED = "elapsed"
SHARE = "share"
BYTES = "bytes"
NOTHING = "-"
# Below a second people think in milliseconds; from ten minutes on a run is told in minutes.
_MS_BELOW_S = 1.0
_MINUTES_FROM_S = 600.0


def scaled(unit: str, largest: float) -> tuple[float, str]:
    """By what values are multiplied so that the `largest` is short, and what stands behind them then."""
    if unit == DURATION:
        return (1000.0, "ms") if abs(largest) < _MS_BELOW_S else (1.0, "s")
    if unit == ELAPSED:
        return (1.0, "s") if abs(largest) < _MINUTES_FROM_S else (1 / 60, "min")
    if unit == SHARE:
        return 100.0, "%"
    if unit == BYTES:
        return next(
            ((1 / size, name) for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= size),
            (1.0, "B"),
        )
    return 1.0, unit


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten: `0.0123`, `12.3`, `12,345`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(places, 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text and abs(value) >= 1000 else text


def shown(value: float | None, unit: str = "", *, digits: int = 3) -> str:
    """A value with its unit: `512 ms`, `1.23 s`, `98.7 %`; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if not unit and value == int(value):
        return whole(int(value))
    factor, suffix = scaled(unit, value)
    text = number(value * factor, digits)
    return f"{text} {suffix}" if suffix else text


def whole(count: int) -> str:
    """A count: `12,345`."""
    return f"{count:,}"
