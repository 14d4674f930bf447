"""A run over time: what was sent, what came back, and how long it took, step by step. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.bench.analysis.result import Moment
from penstock.bench.analysis.rows import Rows
from penstock.bench.analysis.steps import Steps
from penstock.bench.analysis.tally import Tally, is_failure
from penstock.bench.sample import Cause, Sample
from penstock.core.stats import percentile

# More points than this are not seen in a plot.
MOMENTS_MAX = 150


class Flow:
    """Requests over time, each of them."""

    def __init__(self) -> None:
        self.scheduled, self.completed, self.failed, self.ended = Steps(), Steps(), Steps(), Steps()

    def add(self, sample: Sample) -> None:
        """Counts a request at its times."""
        self.scheduled.add((max(0.0, sample.scheduled_s),), 1.0)
        ended_s = sample.ended_s
        if ended_s is None:
            return
        self.ended.add((ended_s,), 1.0)
        if sample.cause is Cause.NONE:
            self.completed.add((ended_s,), 1.0)
        elif is_failure(sample.cause):
            self.failed.add((ended_s,), 1.0)


def over_time(flow: Flow, rows: Rows, order: Sequence[int], tallies: Iterable[Tally]) -> list[Moment]:
    """A run in at most `MOMENTS_MAX` steps of equal length, from its start to the end of its last request."""
    arrived = [tally.all_tokens for tally in tallies]
    every = [flow.scheduled, flow.completed, flow.failed, flow.ended, *arrived]
    last_s = max(steps.last_s for steps in every) if every else 0.0
    step_s = max(steps.step_s for steps in every)
    while last_s / step_s >= MOMENTS_MAX:
        step_s *= 2
    for steps in every:
        steps.at_least(step_s)
    tokens: dict[int, float] = {}
    for steps in arrived:
        for step, value in steps.sums.items():
            tokens[step] = tokens.get(step, 0.0) + value
    held = _by_step(rows, order, step_s)
    moments: list[Moment] = []
    in_flight = 0.0
    for step in range(int(last_s / step_s) + 1 if last_s >= 0 else 0):
        scheduled = flow.scheduled.sums.get(step, 0.0)
        in_flight += scheduled - flow.ended.sums.get(step, 0.0)
        mine = held.get(step, [])
        moments.append(
            Moment(
                at_s=(step + 0.5) * step_s,
                scheduled_per_s=scheduled / step_s,
                completed_per_s=flow.completed.sums.get(step, 0.0) / step_s,
                failed_per_s=flow.failed.sums.get(step, 0.0) / step_s,
                output_tokens_per_s=tokens.get(step, 0.0) / step_s,
                in_flight=round(in_flight),
                ttft_p50_s=_at(rows, mine, "ttft", 50),
                ttft_p95_s=_at(rows, mine, "ttft", 95),
                e2e_p50_s=_at(rows, mine, "e2e", 50),
                tpot_p50_s=_at(rows, mine, "tpot", 50),
            )
        )
    return moments


def _by_step(rows: Rows, order: Sequence[int], step_s: float) -> dict[int, list[int]]:
    held: dict[int, list[int]] = {}
    for row in order:
        held.setdefault(int(max(0.0, rows.scheduled_s[row]) / step_s), []).append(row)
    return held


def _at(rows: Rows, mine: Sequence[int], measure: str, p: float) -> float | None:
    column = rows.values[measure]
    values = [value for row in mine if (value := column[row]) == value]  # NaN is not itself
    return percentile(values, p) if values else None
