"""The steady part of a stage: where its figures had settled, and whether they had. Pure.

What lies before is found by MSER-5 (White, 1997; White, Cobb and Spratt, 2000): the beginning whose loss makes the mean
of the rest most certain. What is left is steady when neither times nor requests under way rise or fall through it
(Mann and Kendall on ten means in a row). An open loop beyond what the server can do has a queue that grows without
end, and is never steady.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.core.stats import percentile, trend

BATCH = 5  # of MSER-5
# MSER looks at ten means at least.
CUT_FROM_REQUESTS = 50
# The trend is looked at in ten means, each of two requests at least.
MEANS = 10
JUDGED_FROM_REQUESTS = 20
# With ten means in a row, chance alone has such a trend once in a hundred times.
TREND_P_MAX = 0.01
# And it must matter: so large a part of the mean from the first of the ten to the last.
TREND_SHARE_MIN = 0.25
TREND_TIME_S_MIN = 0.002
TREND_IN_FLIGHT_MIN = 2.0
# A beginning is left out only if its mean is so far off the rest's.
CUT_SHARE_MIN = 0.1


@dataclass(frozen=True, slots=True)
class Course:
    """The requests of a stage in the order of their scheduled times.

    Args:
        scheduled_s: when each was to be sent.
        ended_s: when each ended, however it did.
        ttft_s: of each, NaN where it has none.
        e2e_s: of each; of one that was cut off or timed out, how long it had lasted by then; NaN of others.
        begins_s, ends_s: of the stage.
        others_s: when requests of the warm-up and of other stages were scheduled and ended, since those that are still
            under way when a stage begins are its load too.
    """

    scheduled_s: Sequence[float]
    ended_s: Sequence[float]
    ttft_s: Sequence[float]
    e2e_s: Sequence[float]
    begins_s: float
    ends_s: float
    others_s: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What was found.

    Args:
        cut: how many requests at the beginning are left out.
        steady: None where there are too few requests to tell.
        says: why, in a sentence.
    """

    cut: int
    steady: bool | None
    says: str


def settled(course: Course) -> Settled:
    """From which request on the figures of a stage had settled, and whether they stayed so."""
    times = {"TTFT": course.ttft_s, "E2E": course.e2e_s}
    known = {name: sum(not math.isnan(value) for value in values) for name, values in times.items()}
    if max(known.values()) < JUDGED_FROM_REQUESTS:
        return Settled(0, None, f"{max(known.values())} answers; {JUDGED_FROM_REQUESTS} are needed to tell")
    cuts = [_cut(values) for name, values in times.items() if known[name] >= CUT_FROM_REQUESTS]
    cut = max((found for found, _ in cuts), default=0)
    if any(unsettled for _, unsettled in cuts):
        return Settled(0, False, "the times had not settled by the middle of it")
    moved = [
        says
        for name, values in times.items()
        if known[name] >= JUDGED_FROM_REQUESTS and (says := _drift_of_times(name, values[cut:]))
    ]
    says = _drift_in_flight(course, cut)
    moved += [says] if says else []
    if moved:
        return Settled(cut, False, "; ".join(moved))
    return Settled(cut, True, f"the first {cut} requests are left out" if cut else "nothing moved")


def mser(values: Sequence[float], batch: int = BATCH) -> int:
    """How many values at the beginning are best left out, by MSER; at most half of them.

    Args:
        values: in the order of time.
        batch: so many are looked at as one mean, at least 1.
    """
    count = len(values) // batch
    means = [math.fsum(values[i * batch : (i + 1) * batch]) / batch for i in range(count)]
    best, best_at = math.inf, 0
    total = squares = 0.0
    for left in range(count - 1, -1, -1):  # from the end, so that sums grow by one mean each
        total += means[left]
        squares += means[left] ** 2
        size = count - left
        spread = max(0.0, squares - total * total / size) / size**2
        if 2 * left <= count and spread <= best:
            best, best_at = spread, left
    return best_at * batch


def _cut(values: Sequence[float]) -> tuple[int, bool]:
    """How many requests to leave out, and whether the figures had not settled even by the middle."""
    places = [place for place, value in enumerate(values) if not math.isnan(value)]
    clean = [values[place] for place in places]
    most = percentile(clean, 95)  # one slow answer is no transient
    clean = [min(value, most) for value in clean]
    cut = mser(clean)
    if not cut:
        return 0, False
    before, after = _mean(clean[:cut]), _mean(clean[cut:])
    spread = math.sqrt(sum((value - after) ** 2 for value in clean[cut:]) / (len(clean) - cut))
    matters = max(CUT_SHARE_MIN * after, 2 * spread / math.sqrt(cut), TREND_TIME_S_MIN)
    if abs(before - after) <= matters:
        return 0, False
    at_the_limit = 2 * (cut // BATCH + 1) > len(clean) // BATCH
    return places[cut], at_the_limit


def _drift_of_times(name: str, values: Sequence[float]) -> str:
    clean = [value for value in values if not math.isnan(value)]
    if len(clean) < JUDGED_FROM_REQUESTS:
        return ""
    most = percentile(clean, 95)
    clean = [min(value, most) for value in clean]
    size = len(clean)
    means = [_mean(clean[size * i // MEANS : size * (i + 1) // MEANS]) for i in range(MEANS)]
    if not _drifts(means, TREND_TIME_S_MIN):
        return ""
    return f"{name} went from {means[0] * 1e3:.0f} to {means[-1] * 1e3:.0f} ms"


def _drift_in_flight(course: Course, cut: int) -> str:
    begins_s = course.scheduled_s[cut] if cut else course.begins_s
    step_s = (course.ends_s - begins_s) / MEANS
    if step_s <= 0:
        return ""
    edges = [begins_s + step_s * i for i in range(MEANS + 1)]
    busy_s = [0.0] * MEANS
    for begin, end in (*zip(course.scheduled_s, course.ended_s, strict=True), *course.others_s):
        first = max(0, int((begin - begins_s) / step_s))
        last = min(MEANS - 1, int((end - begins_s) / step_s)) if end >= begins_s else -1
        for i in range(first, last + 1):
            busy_s[i] += max(0.0, min(end, edges[i + 1]) - max(begin, edges[i]))
    means = [each / step_s for each in busy_s]
    if not _drifts(means, TREND_IN_FLIGHT_MIN):
        return ""
    return f"requests under way went from {means[0]:.0f} to {means[-1]:.0f}"


def _drifts(means: Sequence[float], least: float) -> bool:
    p, slope = trend(means)
    change = abs(slope) * (len(means) - 1)
    return p < TREND_P_MAX and change > max(least, TREND_SHARE_MIN * abs(_mean(means)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
