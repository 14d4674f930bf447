"""Percentiles, intervals and tests: the one place that Penstock takes them from. Pure Python, without numpy.

Percentiles are by nearest rank: the smallest value that `p` percent of all do not exceed. It is always a value that
was seen, never one in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

Interval = tuple[float | None, float | None]

# Two-sided, for every interval that is shown.
CONFIDENCE = 0.95
# A percentile is shown when it has a one-sided bound at this confidence with one value beyond it: the rule of
# MLPerf's early stopping, whose floors are p90 64, p95 130, p99 662, p99.9 6636.
FLOOR_CONFIDENCE = 0.99
# Fewer stretches than this tell too little of how much values hang together.
STRETCHES_MIN = 20
STRETCHES_MAX = 50


def percentile(values: Sequence[float], p: float) -> float:
    """The nearest-rank percentile of at least one value; `p` from 0 to 100.

    Raises:
        ValueError: there is no value, or no such percentile.
    """
    return percentile_of_sorted(sorted(values), p)


def percentile_of_sorted(ordered: Sequence[float], p: float) -> float:
    """The same of values that ascend already."""
    return ordered[rank(len(ordered), p) - 1]


def rank(count: int, p: float) -> int:
    """The place of a percentile among `count` ascending values, from 1.

    Raises:
        ValueError: there is no value, or no such percentile.
    """
    if count < 1 or not 0 <= p <= 100:
        raise ValueError(f"no percentile {p} of {count} values")
    # Rounded, since 99.9 % of 1000 is a little more than 999 in binary.
    return max(1, math.ceil(round(count * p / 100, 9)))


@lru_cache(maxsize=64)
def samples_needed(p: float) -> int:
    """How many values a percentile needs before it is shown; `p` above 0 and below 100.

    The smallest count at which, with `FLOOR_CONFIDENCE`, more than one value lies beyond the true percentile.
    """
    if not 0 < p < 100:
        raise ValueError(f"no number of samples is enough for percentile {p}")
    inside = max(p, 100 - p) / 100

    def enough(count: int) -> bool:
        at_most_one = inside**count + count * (1 - inside) * inside ** (count - 1)
        return at_most_one <= 1 - FLOOR_CONFIDENCE

    high = 2
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def binomial_quantile(count: int, share: float, probability: float) -> int:
    """The smallest k of which a binomial count is at most k with this probability.

    Args:
        count: trials, at least 0.
        share: chance of each, 0 to 1.
        probability: above 0 and below 1.
    """
    if share <= 0 or count == 0:
        return 0
    if share >= 1:
        return count
    # Ten standard deviations from the mean there is nothing left that a double would tell.
    reach = 10 * math.sqrt(count * share * (1 - share)) + 10
    k = max(0, math.floor(count * share - reach))
    odds = share / (1 - share)
    mass = math.exp(
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(share)
        + (count - k) * math.log1p(-share)
    )
    total = mass
    while total < probability and k < count:
        mass *= (count - k) / (k + 1) * odds
        k += 1
        total += mass
    return k


def percentile_interval(
    ordered: Sequence[float], p: float, *, confidence: float = CONFIDENCE, effect: float = 1.0
) -> Interval:
    """The interval of a percentile by order statistics: no assumption about how values are spread.

    A side is None where so few values do not bound it.

    Args:
        ordered: ascending values.
        p: above 0 and below 100.
        confidence: above 0 and below 1.
        effect: the design effect of values that hang together, at least 1: they count as so many times fewer.
    """
    count = len(ordered)
    worth = math.floor(count / effect)
    if worth < 1:
        return None, None
    beyond = (1 - confidence) / 2
    low = binomial_quantile(worth, p / 100, beyond)
    high = binomial_quantile(worth, p / 100, 1 - beyond) + 1
    scale = count / worth
    low_rank, high_rank = math.floor(low * scale), math.ceil(high * scale)
    return (
        ordered[low_rank - 1] if low_rank >= 1 else None,
        ordered[high_rank - 1] if high <= worth and high_rank <= count else None,
    )


def share_interval(good: int, count: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share, by Wilson; (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = good / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def stretches(count: int) -> list[tuple[int, int]]:
    """`count` values in their order of time, cut into consecutive stretches of about one length: (begin, end)."""
    parts = min(count, STRETCHES_MAX, max(STRETCHES_MIN, math.isqrt(count)))
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def design_effect(values: Sequence[float], limit: float) -> float:
    """How many values in a row count as one, for the share of values up to `limit`; at least 1.

    Requests that shared a queue are slow together, so a thousand of them tell less than a thousand apart would. The
    spread of that share between stretches of time is set against what chance alone would give (batch means).

    Args:
        values: in the order of time; below 2 `STRETCHES_MIN` values the answer is 1.
        limit: of the same unit.
    """
    count = len(values)
    if count < 2 * STRETCHES_MIN:
        return 1.0
    within = list(map(limit.__ge__, values))
    share = sum(within) / count
    if share in (0.0, 1.0):
        return 1.0
    parts = stretches(count)
    squares = sum((sum(within[begin:end]) - share * (end - begin)) ** 2 for begin, end in parts)
    return max(1.0, squares * len(parts) / (len(parts) - 1) / (count * share * (1 - share)))


def mean_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a mean, by the means of stretches of time, so that values may hang together.

    (None, None) below 30 values.

    Args:
        values: in the order of time.
        confidence: above 0 and below 1.
    """
    count = len(values)
    if count < 30:
        return None, None
    parts = stretches(count)
    mean = math.fsum(values) / count
    squares = math.fsum((math.fsum(values[begin:end]) - mean * (end - begin)) ** 2 for begin, end in parts)
    error = math.sqrt(squares * len(parts) / (len(parts) - 1)) / count
    reach = student_quantile((1 + confidence) / 2, len(parts) - 1) * error
    return mean - reach, mean + reach


def student_quantile(probability: float, freedom: int) -> float:
    """Student's t: exact for 1 and 2 degrees of freedom, above by Cornish and Fisher's expansion, within 1 %."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def trend(values: Sequence[float]) -> tuple[float, float]:
    """Whether values rise or fall, by Mann and Kendall with ties: the two-sided p, and the slope per step (Sen).

    Args:
        values: in their order, at least 3, at most some hundred: every pair is looked at.
    """
    count = len(values)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    rises = sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    slopes = sorted((values[j] - values[i]) / (j - i) for i, j in pairs)
    ties = [values.count(value) for value in set(values)]
    variance = (_pairs_weight(count) - sum(map(_pairs_weight, ties))) / 18
    if variance <= 0:
        return 1.0, 0.0
    z = (abs(rises) - 1) / math.sqrt(variance) if rises else 0.0
    middle = len(slopes) // 2
    slope = slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
    return 2 * (1 - NormalDist().cdf(max(0.0, z))), slope


def _pairs_weight(count: int) -> int:
    return count * (count - 1) * (2 * count + 5)


def rank_test(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Mann and Whitney's test with ties: the two-sided p, and the chance that a value of `b` is above one of `a`.

    The normal approximation, with its correction for continuity, good from some eight values on each side; widened
    for values that hang together (`STRETCHES_MIN`). An equal pair counts as half.

    Args:
        a, b: in the order of time, at least one each.
    """
    both = sorted((value, place) for place, value in enumerate([*a, *b]))
    ranks = [0.0] * len(both)
    ties = 0
    begin = 0
    while begin < len(both):
        end = begin + 1
        while end < len(both) and both[end][0] == both[begin][0]:
            end += 1
        for _, place in both[begin:end]:
            ranks[place] = (begin + end + 1) / 2
        ties += (end - begin) ** 3 - (end - begin)
        begin = end
    count_a, count_b, count = len(a), len(b), len(both)
    above = math.fsum(ranks[count_a:]) - count_b * (count_b + 1) / 2
    pairs = count_a * count_b
    variance = pairs / 12 * (count + 1 - ties / (count * (count - 1))) if count > 1 else 0.0
    if variance <= 0:
        return 1.0, 0.5
    effect = (_spread_effect(ranks[:count_a]) * count_b + _spread_effect(ranks[count_a:]) * count_a) / count
    z = max(0.0, abs(above - pairs / 2) - 0.5) / math.sqrt(variance * effect)
    return 2 * (1 - NormalDist().cdf(z)), above / pairs


def _spread_effect(values: Sequence[float]) -> float:
    """The design effect of a mean; at least 1."""
    count = len(values)
    if count < 2 * STRETCHES_MIN:
        return 1.0
    mean = math.fsum(values) / count
    alone = math.fsum((value - mean) ** 2 for value in values)
    if alone <= 0:
        return 1.0
    parts = stretches(count)
    squares = math.fsum((math.fsum(values[begin:end]) - mean * (end - begin)) ** 2 for begin, end in parts)
    return max(1.0, squares * len(parts) / (len(parts) - 1) / alone)


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p-values for being looked at together, by Holm."""
    count = len(p_values)
    adjusted = [1.0] * count
    most = 0.0
    for place, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        most = max(most, min(1.0, p_values[index] * (count - place)))
        adjusted[index] = most
    return adjusted
