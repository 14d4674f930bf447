"""The figures of a part of a run: of all, of one prompt type, of one stage, of one type in one stage. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.bench.analysis.distributions import distribution
from penstock.bench.analysis.measures import MEASURES
from penstock.bench.analysis.result import Distribution, Goodput, Part, Throughput, Window
from penstock.bench.analysis.rows import Rows
from penstock.bench.analysis.slo import Slo
from penstock.bench.analysis.steps import Steps
from penstock.bench.analysis.tally import Tally, counts
from penstock.bench.sample import Cause
from penstock.core.stats import share_interval


@dataclass(frozen=True, slots=True)
class Book:
    """Everything that was read of a run.

    Args:
        rows: the kept requests.
        order: their places, by scheduled time.
        tallies: (prompt type, stage) -> its sums.
        windows: stage -> its window.
        slo: None where there is none.
    """

    rows: Rows
    order: Sequence[int]
    tallies: Mapping[tuple[str, int], Tally]
    windows: Mapping[int, Window]
    slo: Slo | None


def part(
    book: Book, label: str, *, kind: str | None = None, stage: int | None = None, drawn: bool = True
) -> Part:
    """The figures of one part.

    Args:
        kind: a prompt type; None is all.
        stage: None is all.
        drawn: whether its distributions have curves.
    """
    windows = {key: window for key, window in book.windows.items() if stage in (None, key)}
    tallies = {
        key: tally for key, tally in book.tallies.items() if kind in (None, key[0]) and key[1] in windows
    }
    around = _rows(book, kind)
    rows = [row for row in around if book.rows.stage[row] in windows]
    within = [row for row in rows if _inside(book.rows.scheduled_s[row], windows[book.rows.stage[row]])]
    return Part(
        label=label,
        kind=kind,
        stage=stage,
        window=_joined(list(windows.values())),
        counts=counts(tallies.values()),
        throughput=_throughput(book, around, within, windows, kind),
        goodput=_goodput(book.rows, around, within, windows, book.slo) if book.slo else None,
        measures=_measures(book.rows, within, drawn=drawn),
    )


def _rows(book: Book, kind: str | None) -> list[int]:
    """All requests of a prompt type, those of the warm-up and of every stage."""
    rows = book.rows
    code = None if kind is None else rows.kind_code(kind)
    return [row for row in book.order if code in (None, rows.kind[row])]


def _inside(at_s: float, window: Window) -> bool:
    return window.begins_s <= at_s <= window.ends_s


def _joined(windows: Sequence[Window]) -> Window:
    """One window from the first to the last; steady where all are."""
    if len(windows) == 1:
        return windows[0]
    if not windows:
        return Window(0.0, 0.0, None, says="nothing was sent")
    told = [window.steady for window in windows]
    return Window(
        begins_s=min(window.begins_s for window in windows),
        ends_s=max(window.ends_s for window in windows),
        steady=False if False in told else None if None in told else True,
        left_out=sum(window.left_out for window in windows),
        says="the windows of all stages together",
    )


def _length_s(windows: Mapping[int, Window]) -> float:
    return sum(window.length_s for window in windows.values())


def _ended_inside(rows: Rows, around: Sequence[int], windows: Mapping[int, Window]) -> list[int]:
    return [
        row
        for row in around
        if rows.cause_of(row) is Cause.NONE
        and any(_inside(rows.ended_s[row], window) for window in windows.values())
    ]


def _throughput(
    book: Book,
    around: Sequence[int],
    within: Sequence[int],
    windows: Mapping[int, Window],
    kind: str | None,
) -> Throughput:
    """What went through in the windows, also of requests that were sent before them: a window that left out what was
    under way when it began would have less than the server did."""
    rows, length_s = book.rows, _length_s(windows)
    if length_s <= 0:
        return Throughput()
    of_kind = {key: tally for key, tally in book.tallies.items() if kind in (None, key[0])}
    own = [tally for key, tally in of_kind.items() if key[1] in windows]
    ended = _ended_inside(rows, around, windows)
    prompts = rows.values["input_tokens"]
    mean, most = _in_flight(rows, around, windows)
    kept = rows.share * length_s
    return Throughput(
        offered_per_s=len(within) / kept,
        completed_per_s=len(ended) / kept,
        output_tokens_per_s=_arrived([tally.whole_tokens for tally in of_kind.values()], windows) / length_s,
        all_output_tokens_per_s=_arrived([tally.all_tokens for tally in of_kind.values()], windows)
        / length_s,
        input_tokens_per_s=sum(prompts[row] for row in ended if prompts[row] == prompts[row]) / kept,
        output_tokens=sum(tally.output_tokens for tally in own),
        input_tokens=sum(tally.input_tokens for tally in own),
        wasted_output_tokens=sum(tally.wasted_tokens for tally in own),
        in_flight_mean=mean / rows.share,
        in_flight_max=round(most / rows.share),
    )


def _arrived(tokens: Sequence[Steps], windows: Mapping[int, Window]) -> float:
    return sum(
        steps.between(window.begins_s, window.ends_s) for steps in tokens for window in windows.values()
    )


def _in_flight(rows: Rows, around: Sequence[int], windows: Mapping[int, Window]) -> tuple[float, int]:
    """Mean and most of the kept requests under way in the windows."""
    busy_s = 0.0
    changes: list[tuple[float, int]] = []
    for row in around:
        for window in windows.values():
            begin, end = max(rows.scheduled_s[row], window.begins_s), min(rows.ended_s[row], window.ends_s)
            if end >= begin:
                busy_s += end - begin
                changes += ((begin, 1), (end, -1))
    now = most = 0
    for _, change in sorted(changes):  # at one moment, what ends comes first
        now += change
        most = max(most, now)
    return busy_s / _length_s(windows), most


def _goodput(
    rows: Rows, around: Sequence[int], within: Sequence[int], windows: Mapping[int, Window], slo: Slo
) -> Goodput:
    good = sum(rows.good[row] == 1 for row in within)
    judged = sum(rows.good[row] >= 0 for row in within)
    low, high = share_interval(good, judged)
    length_s = _length_s(windows)
    ended = sum(rows.good[row] == 1 for row in _ended_inside(rows, around, windows))
    return Goodput(
        slo=slo.text,
        good=good,
        judged=judged,
        undetermined=len(within) - judged,
        share=good / judged if judged else None,
        share_low=low if judged else None,
        share_high=high if judged else None,
        per_s=ended / rows.share / length_s if length_s > 0 else 0.0,
        missed={
            name: sum(rows.missed[row] >> bit & 1 for row in within) for bit, name in enumerate(slo.limits_s)
        },
    )


def _measures(rows: Rows, within: Sequence[int], *, drawn: bool) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for measure in MEASURES:
        if measure.of is None:
            values = rows.pooled_gaps(within)
        else:
            column = rows.values[measure.name]
            values = [value for row in within if (value := column[row]) == value]  # NaN is not itself
        spread = distribution(measure, values, drawn=drawn)
        if spread is not None:
            found[measure.name] = spread
    return found
