"""Samples, read once, become the summary of a run. Pure; memory is bounded whatever the length of the run.

Percentiles and rates are of each stage's window (`steady`), by the scheduled time of a request; counts are of
everything but the warm-up. Only whole answers have latencies; what failed is in the counts, in the error share and in
goodput's denominator, and what was cancelled by plan or cut off by the end of the run is told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from penstock.bench.analysis.moments import Flow, over_time
from penstock.bench.analysis.notes import notes
from penstock.bench.analysis.parts import Book, part
from penstock.bench.analysis.result import (
    Cache,
    Failure,
    Kept,
    Part,
    Summary,
    Verdict,
    VerdictKind,
    Window,
    schema,
)
from penstock.bench.analysis.rows import GAPS_MAX, ROWS_MAX, Rows
from penstock.bench.analysis.slo import Slo, judged
from penstock.bench.analysis.steady import Course, settled
from penstock.bench.analysis.tally import Tally, is_failure
from penstock.bench.load.health import ClientHealth
from penstock.bench.plan import Stage
from penstock.bench.sample import Cause, Sample

__all__ = ["PrefixCounts", "Summary", "Verdict", "VerdictKind", "schema", "summarize"]

# Causes times statuses are few; a server that invents statuses is not given more.
FAILURES_MAX = 64
# Tables and plots of more stages than this are of no use, and each costs a sort of all its measures.
STAGES_MAX = 256
WARMUP = -1


class PrefixCounts(Protocol):
    """What the engines' metrics said of their prefix caches, tokens; None where they did not."""

    @property
    def prefix_hits(self) -> float | None:
        """Prompt tokens taken from it."""

    @property
    def prefix_queries(self) -> float | None:
        """Prompt tokens looked for in it."""


def summarize(
    samples: Iterable[Sample],
    stages: Sequence[Stage] = (),
    *,
    slo: Slo | None = None,
    client: ClientHealth | None = None,
    beside: PrefixCounts | None = None,
    expected_cache_share: float = 0.0,
    interrupted: bool = False,
    rows_max: int = ROWS_MAX,
    gaps_max: int = GAPS_MAX,
) -> Summary:
    """The summary of a run, not judged yet.

    Args:
        samples: in any order; read once.
        stages: as planned; a sample's `stage` is a place among them. One without a rate and a concurrency is a load
            that changes within it, and is not asked to be steady.
        slo: what a good request is.
        client: how the load generators fared.
        beside: the engines' own counts of prefix-cache hits.
        expected_cache_share: the part of all prompt tokens that the workload itself repeats, 0 to 1.
        interrupted: whether the run was ended early.
        rows_max, gaps_max: how many requests and gaps are kept for percentiles.
    """
    reading = _Reading(slo, Rows(rows_max, gaps_max))
    for sample in samples:
        reading.add(sample)
    rows = reading.rows
    order = rows.in_order()
    windows = {
        number: _window(rows, order, number, _stage(stages, number), reading)
        for number in sorted(reading.seen_stages)[:STAGES_MAX]
    }
    book = Book(rows, order, reading.tallies, windows, slo)
    measured = {key: tally for key, tally in reading.tallies.items() if key[1] > WARMUP}
    kinds, labels = (
        sorted({kind for kind, _ in measured}),
        {number: _label(stages, number) for number in windows},
    )
    whole = part(book, "all")
    summary = Summary(
        all=whole,
        duration_s=max(0.0, reading.last_s),
        warmup=reading.warmup,
        interrupted=interrupted,
        kinds=[part(book, kind, kind=kind) for kind in kinds] if len(kinds) > 1 else [],
        stages=[part(book, label, stage=number) for number, label in labels.items()]
        if len(labels) > 1
        else [],
        cells=_cells(book, kinds, labels),
        plan=list(stages),
        over_time=over_time(reading.flow, rows, order, reading.tallies.values()),
        failures=reading.failures(),
        cache=reading.cache(beside, expected_cache_share),
        kept=Kept(sum(stage > WARMUP for stage in rows.stage), rows.share, len(rows.gaps), rows.gaps_share),
        client=client,
    )
    left = len(reading.seen_stages) - len(windows)
    return msgspec.structs.replace(summary, notes=notes(summary, list(measured.values()), left))


def _cells(book: Book, kinds: Sequence[str], labels: dict[int, str]) -> list[Part]:
    if len(kinds) < 2 or len(labels) < 2:
        return []
    return [
        part(book, f"{kind}, {label}", kind=kind, stage=number, drawn=False)
        for number, label in labels.items()
        for kind in kinds
        if (kind, number) in book.tallies
    ]


def _stage(stages: Sequence[Stage], number: int) -> Stage | None:
    return stages[number] if number < len(stages) else None


def _label(stages: Sequence[Stage], number: int) -> str:
    stage = _stage(stages, number)
    return stage.label if stage is not None else f"stage {number}"


def _window(rows: Rows, order: Sequence[int], number: int, stage: Stage | None, reading: _Reading) -> Window:
    mine = [row for row in order if rows.stage[row] == number]
    if not mine:
        return Window(0.0, 0.0, None, says="none of its requests was kept")
    scheduled = [rows.scheduled_s[row] for row in mine]
    ended = [rows.ended_s[row] for row in mine]
    begins_s, ends_s = scheduled[0], max(ended)
    if stage is not None:
        if reading.warmup_last_s < stage.begins_s <= begins_s:
            begins_s = stage.begins_s
        if stage.ends_s is not None and stage.ends_s > begins_s:
            ends_s = min(stage.ends_s, reading.last_s)
    if stage is not None and stage.rate_per_s is None and stage.concurrency is None:
        return Window(begins_s, ends_s, None, says="the load itself was to change")
    course = Course(
        scheduled_s=scheduled,
        ended_s=ended,
        ttft_s=[rows.values["ttft"][row] for row in mine],
        e2e_s=[rows.lasted_s[row] for row in mine],
        begins_s=begins_s,
        ends_s=ends_s,
        others_s=[
            (rows.scheduled_s[row], rows.ended_s[row])
            for row in order
            if rows.stage[row] != number and rows.scheduled_s[row] < ends_s and rows.ended_s[row] > begins_s
        ],
    )
    found = settled(course)
    left_out = round(found.cut / rows.share)
    return Window(scheduled[found.cut] if found.cut else begins_s, ends_s, found.steady, left_out, found.says)


class _Reading:
    """What a run has told so far."""

    def __init__(self, slo: Slo | None, rows: Rows) -> None:
        self._slo = slo
        self._bits = {name: 1 << bit for bit, name in enumerate(slo.limits_s)} if slo else {}
        self.rows = rows
        self.tallies: dict[tuple[str, int], Tally] = {}
        self.flow = Flow()
        self.warmup = 0
        self.warmup_last_s = -math.inf
        self.last_s = 0.0
        self.seen_stages: set[int] = set()
        self._failures: dict[tuple[Cause, int], Failure] = {}
        self._cached = self._cached_of = 0
        self._cached_requests = 0
        self._requests = 0

    def add(self, sample: Sample) -> None:
        """Reads one request."""
        if sample.ended_s is not None:
            self.last_s = max(self.last_s, sample.ended_s)
        kind = self.rows.kinds[self.rows.kind_code(sample.kind)]
        self.tallies.setdefault((kind, sample.stage), Tally()).add(sample)
        self.flow.add(sample)
        met = judged(self._slo, sample) if self._slo else None
        self.rows.add(
            sample,
            met.good if met else None,
            sum(self._bits[name] for name in met.missed) if met else 0,
        )
        if sample.stage <= WARMUP:
            # It is in no latency, but what of it comes later is what the server does then.
            self.warmup += 1
            self.warmup_last_s = max(self.warmup_last_s, sample.scheduled_s)
            return
        self._requests += 1
        self.seen_stages.add(sample.stage)
        if is_failure(sample.cause):
            self._add_failure(sample)
        if sample.cached_tokens is not None and sample.prompt_tokens:
            self._cached += sample.cached_tokens
            self._cached_of += sample.prompt_tokens
            self._cached_requests += 1

    def _add_failure(self, sample: Sample) -> None:
        key = (sample.cause, sample.status)
        if key not in self._failures and len(self._failures) >= FAILURES_MAX:
            key = (sample.cause, 0)
        held = self._failures.get(key)
        if held is None:
            held = Failure(sample.cause.value, key[1], sample.detail, 0, sample.ended_s)
        elif sample.ended_s is not None and sample.ended_s < (held.first_s or math.inf):
            held = msgspec.structs.replace(held, detail=sample.detail, first_s=sample.ended_s)
        self._failures[key] = msgspec.structs.replace(held, count=held.count + 1)

    def failures(self) -> list[Failure]:
        """Failures, the most frequent first."""
        return sorted(self._failures.values(), key=lambda failure: -failure.count)

    def cache(self, beside: PrefixCounts | None, expected_share: float) -> Cache:
        """Prefix-cache hits: as usage tells them if at least half of the requests have it, else as engines do."""
        if self._cached_of and 2 * self._cached_requests >= self._requests:
            return Cache(
                "usage",
                self._cached,
                self._cached_of,
                self._cached / self._cached_of,
                expected_share,
                self._cached / self._cached_requests,
            )
        if beside is None or beside.prefix_hits is None or not beside.prefix_queries:
            return Cache(expected_share=expected_share)
        hits, queries = beside.prefix_hits, beside.prefix_queries
        requests = self._requests + self.warmup
        return Cache(
            "engine", hits, queries, hits / queries, expected_share, hits / requests if requests else None
        )
