"""Whether B differs from A, by how much, and what difference would have been missed. Pure.

Two runs are compared by bootstrap: percentiles by the exact law of a resampled order statistic, so that nothing need be
drawn and sorted thousands of times; means by resampling stretches of time. Requests that hang together count as fewer.
Interleaved runs (ABBA) are compared pair by pair, by Student's t on the pairs' differences, which also knows how much a
server differs from itself from one minute to the next. Two single runs do not know that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from statistics import NormalDist, stdev

import msgspec

from penstock.bench.analysis.measures import BY_NAME, Measure
from penstock.bench.analysis.rows import Rows
from penstock.bench.analysis.tally import is_failure
from penstock.bench.sample import Cause, Sample
from penstock.core.stats import (
    CONFIDENCE,
    design_effect,
    holm,
    percentile_of_sorted,
    rank,
    rank_test,
    samples_needed,
    share_interval,
    stretches,
    student_quantile,
)

MEASURES = ("ttft", "tpot", "decode", "itl_request", "gap_max", "e2e")
STATISTICS = ("p50", "p95", "p99", "mean")
RESAMPLES = 2000
# Of a difference as large as the smallest detectable one, four in five are found.
POWER = 0.8
# What the result's sentence tells of; the others are in the table.
TOLD = frozenset({"ttft", "tpot", "e2e"})
# Times are not known to a nanosecond: less than that is no difference.
NOTHING = 1e-9
MEAN_FROM = 30  # fewer values say nothing about their mean's spread


class Effect(msgspec.Struct, frozen=True):
    """The difference B - A of one statistic of one measure.

    Args:
        statistic: `p50`, `p95`, `p99`, `mean` or `share`.
        a, b: its values.
        difference, low, high: with its 95 % interval, in the measure's unit.
        share, share_low, share_high: the same as a part of `a`; None where that is 0.
        detectable, detectable_share: a true difference of this size is found four times in five.
        shown: whether the interval leaves out 0.
    """

    statistic: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    detectable: float
    shown: bool
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    detectable_share: float | None = None


class Compared(msgspec.Struct, frozen=True):
    """One measure.

    Args:
        measure, label, unit: see `measures.Measure`.
        count_a, count_b: values.
        effects: those for which there are enough samples.
        p_value: of Mann and Whitney's test; None where a side has less than eight values.
        p_adjusted: for all measures looked at together (Holm).
        above: chance that a request of B has a higher value than one of A; 0.5 is no difference.
        says: the result in a sentence.
    """

    measure: str
    label: str
    unit: str
    count_a: int
    count_b: int
    effects: list[Effect]
    p_value: float | None
    p_adjusted: float | None
    above: float | None
    says: str


class Comparison(msgspec.Struct, frozen=True):
    """The comparison of two runs.

    Args:
        a, b: what they are called.
        pairs: of interleaved blocks; 0 where the runs were one after the other.
        measures: one by one.
        errors: difference of the error shares; None where a side has no request.
        notes: what a reader must know.
        says: the result in a sentence or two.
    """

    a: str
    b: str
    pairs: int
    measures: list[Compared]
    errors: Effect | None
    notes: list[str]
    says: str


def compare(
    a: Sequence[Iterable[Sample]],
    b: Sequence[Iterable[Sample]],
    *,
    labels: tuple[str, str] = ("A", "B"),
    measures: Sequence[str] = MEASURES,
    seed: int = 0,
) -> Comparison:
    """How B differs from A.

    Args:
        a, b: blocks of samples: one each for two runs; as many each for interleaved ones, pair by pair.
        labels: what they are called.
        measures: names in `measures.BY_NAME`, but for `itl`, whose gaps have no sample of their own.
        seed: of the resampling.

    Raises:
        ValueError: there is no block, or interleaved ones do not pair up.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"{len(a)} blocks of {labels[0]} and {len(b)} of {labels[1]} make no pairs")
    rows_a, rows_b = [_rows(block) for block in a], [_rows(block) for block in b]
    randomly = random.Random(seed)  # noqa: S311 - resampling, repeatable by its seed
    found = [_measure(BY_NAME[name], rows_a, rows_b, randomly) for name in measures]
    tested = [each for each in found if each.p_value is not None]
    adjusted = dict(zip((each.measure for each in tested), holm([_p(each) for each in tested]), strict=True))
    compared = [
        msgspec.structs.replace(
            each, p_adjusted=adjusted.get(each.measure), says=_sentence(BY_NAME[each.measure], each, labels)
        )
        for each in found
    ]
    return Comparison(
        a=labels[0],
        b=labels[1],
        pairs=len(a) if len(a) > 1 else 0,
        measures=compared,
        errors=_errors(rows_a, rows_b),
        notes=_notes(len(a), compared),
        says=_result(compared, labels),
    )


def _rows(samples: Iterable[Sample]) -> Rows:
    rows = Rows(gaps_max=2)
    for sample in samples:
        if sample.stage >= 0:
            rows.add(sample)
    return rows


def _p(compared: Compared) -> float:
    return 1.0 if compared.p_value is None else compared.p_value


def _values(rows: Rows, name: str) -> list[float]:
    column = rows.values[name]
    return [value for row in rows.in_order() if (value := column[row]) == value]  # NaN is not itself


def _measure(measure: Measure, a: Sequence[Rows], b: Sequence[Rows], randomly: random.Random) -> Compared:
    blocks_a = [_values(rows, measure.name) for rows in a]
    blocks_b = [_values(rows, measure.name) for rows in b]
    all_a = [value for block in blocks_a for value in block]
    all_b = [value for block in blocks_b for value in block]
    effects: list[Effect] = []
    for statistic in STATISTICS:
        needs = _needs(statistic)
        if len(a) > 1 and all(len(block) >= needs for block in (*blocks_a, *blocks_b)):
            effects.append(_paired(statistic, blocks_a, blocks_b))
        elif len(a) == 1 and min(len(all_a), len(all_b)) >= needs:
            effects.append(_bootstrapped(statistic, all_a, all_b, randomly))
    p_value = above = None
    if min(len(all_a), len(all_b)) >= 8:
        p_value, above = rank_test(all_a, all_b)
    return Compared(
        measure.name, measure.label, measure.unit, len(all_a), len(all_b), effects, p_value, None, above, ""
    )


def _needs(statistic: str) -> int:
    return MEAN_FROM if statistic == "mean" else samples_needed(float(statistic[1:]))


def _statistic(statistic: str, values: Sequence[float]) -> float:
    if statistic == "mean":
        return math.fsum(values) / len(values)
    return percentile_of_sorted(sorted(values), float(statistic[1:]))


def _bootstrapped(statistic: str, a: Sequence[float], b: Sequence[float], randomly: random.Random) -> Effect:
    draws_a, draws_b = (_draws(statistic, values, randomly) for values in (a, b))
    differences = sorted(after - before for before, after in zip(draws_a, draws_b, strict=True))
    beyond = 50 * (1 - CONFIDENCE)
    before, after = _statistic(statistic, a), _statistic(statistic, b)
    normal = NormalDist()
    return effect(
        statistic,
        before,
        after,
        percentile_of_sorted(differences, beyond),
        percentile_of_sorted(differences, 100 - beyond),
        (normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)) * stdev(differences),
    )


def _draws(statistic: str, values: Sequence[float], randomly: random.Random) -> list[float]:
    """The statistic of each of `RESAMPLES` resamples."""
    if statistic == "mean":
        parts = [(math.fsum(values[begin:end]), end - begin) for begin, end in stretches(len(values))]
        means: list[float] = []
        for _ in range(RESAMPLES):
            drawn = randomly.choices(parts, k=len(parts))
            means.append(sum(total for total, _ in drawn) / sum(size for _, size in drawn))
        return means
    # A resample's r-th smallest value is the one at the r-th smallest of as many places drawn evenly (David and
    # Nagaraja, Order Statistics): a beta variate.
    p = float(statistic[1:])
    ordered = sorted(values)
    count = len(ordered)
    worth = max(1, math.floor(count / design_effect(values, percentile_of_sorted(ordered, p))))
    place = rank(worth, p)
    return [
        ordered[min(count - 1, int(randomly.betavariate(place, worth - place + 1) * count))]
        for _ in range(RESAMPLES)
    ]


def _paired(statistic: str, a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Effect:
    before = [_statistic(statistic, block) for block in a]
    after = [_statistic(statistic, block) for block in b]
    differences = [late - early for early, late in zip(before, after, strict=True)]
    count = len(differences)
    error = stdev(differences) / math.sqrt(count)
    middle = math.fsum(differences) / count
    reach = student_quantile((1 + CONFIDENCE) / 2, count - 1)
    return effect(
        statistic,
        math.fsum(before) / count,
        math.fsum(after) / count,
        middle - reach * error,
        middle + reach * error,
        (reach + student_quantile(POWER, count - 1)) * error,
    )


def effect(statistic: str, a: float, b: float, low: float, high: float, detectable: float) -> Effect:
    """An effect, with its shares of `a`."""
    difference = b - a

    def part(value: float) -> float | None:
        return value / a if a else None

    return Effect(
        statistic=statistic,
        a=a,
        b=b,
        difference=difference,
        low=low,
        high=high,
        detectable=detectable,
        shown=(low > 0 or high < 0) and abs(difference) > NOTHING,
        share=part(difference),
        share_low=part(low),
        share_high=part(high),
        detectable_share=part(detectable),
    )


def _errors(a: Sequence[Rows], b: Sequence[Rows]) -> Effect | None:
    """The difference of error shares, its interval by Newcombe."""
    counted: list[tuple[int, int]] = []
    for each in (a, b):
        causes = [rows.cause_of(row) for rows in each for row in range(len(rows))]
        failed = sum(is_failure(cause) for cause in causes)
        counted.append((failed, failed + causes.count(Cause.NONE)))
    (failed_a, of_a), (failed_b, of_b) = counted
    if not of_a or not of_b:
        return None
    share_a, share_b = failed_a / of_a, failed_b / of_b
    low_a, high_a = share_interval(failed_a, of_a)
    low_b, high_b = share_interval(failed_b, of_b)
    difference = share_b - share_a
    normal = NormalDist()
    pooled = (failed_a + failed_b + 1) / (of_a + of_b + 2)
    error = math.sqrt(pooled * (1 - pooled) * (1 / of_a + 1 / of_b))
    return effect(
        "share",
        share_a,
        share_b,
        difference - math.hypot(share_b - low_b, high_a - share_a),
        difference + math.hypot(high_b - share_b, share_a - low_a),
        (normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)) * error,
    )


def _sentence(measure: Measure, compared: Compared, labels: tuple[str, str]) -> str:
    if not compared.effects:
        return f"{measure.label}: not enough samples ({compared.count_a} and {compared.count_b})"
    return f"{measure.label}: " + "; ".join(_phrase(measure, each, labels[1]) for each in compared.effects)


def _phrase(measure: Measure, each: Effect, b: str) -> str:
    if not each.shown:
        missed = _amount(measure, each.detectable, each.detectable_share)
        return f"{each.statistic} shows no difference (less than {missed} may be missed)"
    way = "higher" if each.difference > 0 else "lower"
    if measure.higher_is_better is not None:
        way += ", better" if (each.difference > 0) is measure.higher_is_better else ", worse"
    if each.share is None or each.share_low is None or each.share_high is None:
        return f"{each.statistic} of {b} is {_amount(measure, abs(each.difference), None)} {way}"
    low, high = sorted((each.share_low, each.share_high))
    return (
        f"{each.statistic} of {b} is {_amount(measure, abs(each.difference), abs(each.share))} {way} "
        f"(95 %: {low:+.1%} to {high:+.1%})"
    )


def _amount(measure: Measure, value: float, share: float | None) -> str:
    text = f"{value * 1e3:.3g} ms" if measure.unit == "s" else f"{value:.3g} {measure.unit}"
    return text if share is None else f"{text} or {share:.1%}"


def _notes(blocks: int, compared: Sequence[Compared]) -> list[str]:
    intervals = sum(len(each.effects) for each in compared)
    found = [f"Of {intervals} intervals at 95 %, one in twenty is wrong by chance."] if intervals > 1 else []
    if blocks == 1:
        found.append(
            "The runs were one after the other: what changed between them besides A and B is in the difference. "
            "--interleave tells it apart."
        )
    return found


def _result(compared: Sequence[Compared], labels: tuple[str, str]) -> str:
    a, b = labels
    if not any(each.effects for each in compared):
        return f"There are not enough samples to compare {a} and {b}."
    shown = [
        _phrase(BY_NAME[each.measure], first, b).replace(
            first.statistic, f"{each.label} {first.statistic}", 1
        )
        for each in compared
        if each.measure in TOLD or not TOLD & {one.measure for one in compared}
        if (first := next((one for one in each.effects if one.shown), None)) is not None
    ]
    if not shown:
        return f"No difference between {a} and {b} is shown."
    return f"{b} differs from {a}: " + "; ".join(shown) + "."
