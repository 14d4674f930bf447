"""One measure's values as a distribution: mean, percentiles and their intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock.bench.analysis.measures import Measure
from penstock.bench.analysis.result import Distribution, Percentile
from penstock.core.stats import (
    design_effect,
    mean_interval,
    percentile_interval,
    percentile_of_sorted,
    samples_needed,
)

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
# Those that are drawn; a step of 1 % shows the tail up to p99.
CURVES = frozenset({"ttft", "first_answer", "itl", "itl_request", "gap_max", "tpot", "decode", "e2e"})
CURVE_POINTS = 101


def distribution(measure: Measure, values: Sequence[float], *, drawn: bool = True) -> Distribution | None:
    """How a measure is spread; None where it has no value.

    Args:
        values: in the order of their requests' times, which tells how much they hang together.
        drawn: whether a curve is wanted.
    """
    if not values:
        return None
    ordered = sorted(values)
    mean = math.fsum(values) / len(values)
    # Each value keeps its digits: the mean of equal ones may be off by the last bit.
    mean = min(max(mean, ordered[0]), ordered[-1])
    low, high = mean_interval(values)
    return Distribution(
        measure=measure.name,
        unit=measure.unit,
        count=len(values),
        mean=mean,
        stdev=_deviation(values, mean),
        least=ordered[0],
        most=ordered[-1],
        mean_low=low,
        mean_high=high,
        percentiles=[_percentile(values, ordered, p) for p in PERCENTILES],
        curve=_curve(ordered) if drawn and len(ordered) > 1 and measure.name in CURVES else [],
    )


def _deviation(values: Sequence[float], mean: float) -> float | None:
    if len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _percentile(values: Sequence[float], ordered: Sequence[float], p: float) -> Percentile:
    needs = samples_needed(p)
    if len(ordered) < needs:
        return Percentile(p, None, needs=needs)
    value = percentile_of_sorted(ordered, p)
    low, high = percentile_interval(ordered, p, effect=design_effect(values, value))
    return Percentile(p, value, low, high, needs)


def _curve(ordered: Sequence[float]) -> list[float]:
    last = len(ordered) - 1
    return [ordered[round(last * i / (CURVE_POINTS - 1))] for i in range(CURVE_POINTS)]
