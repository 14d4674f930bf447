"""What is counted of every request of one prompt type in one stage, however long a run is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from penstock.bench.analysis.measures import tokens
from penstock.bench.analysis.result import Counts
from penstock.bench.analysis.steps import Steps
from penstock.bench.sample import Cause, Sample

_NOT_FAILED = frozenset({Cause.NONE, Cause.CANCELLED, Cause.CUT_OFF})


def is_failure(cause: Cause) -> bool:
    """Whether a request ended in a way that nobody planned."""
    return cause not in _NOT_FAILED


class Tally:
    """Sums; `whole_tokens` and `all_tokens` are over time."""

    def __init__(self) -> None:
        self.causes: Counter[Cause] = Counter()
        self.output_tokens = self.input_tokens = self.wasted_tokens = 0
        self.one_token = self.no_tokens = self.from_usage = self.from_chunks = 0
        self.chunks = 0
        self.planned_output = self.planned_output_got = 0
        self.planned_input = self.planned_input_got = 0
        self.whole_tokens, self.all_tokens = Steps(), Steps()

    def add(self, sample: Sample) -> None:
        """Counts a request."""
        self.causes[sample.cause] += 1
        count = tokens(sample) or 0
        self._add_over_time(sample, count)
        if sample.cause is not Cause.NONE:
            self.wasted_tokens += count
            return
        self.output_tokens += count
        self.input_tokens += sample.prompt_tokens or 0
        self.one_token += count == 1
        self.no_tokens += count == 0
        if sample.tokens_from == "usage":
            self.from_usage += 1
            self.chunks += len(sample.chunk_s)
            self._add_planned(sample, count)
        elif count:
            self.from_chunks += 1

    def _add_planned(self, sample: Sample, count: int) -> None:
        if sample.planned_output_tokens is not None:
            self.planned_output += sample.planned_output_tokens
            self.planned_output_got += count
        if sample.planned_prompt_tokens is not None and sample.prompt_tokens is not None:
            self.planned_input += sample.planned_prompt_tokens
            self.planned_input_got += sample.prompt_tokens

    def _add_over_time(self, sample: Sample, count: int) -> None:
        times_s = sample.chunk_s
        if not times_s:
            end_s = sample.done_s if sample.done_s is not None else sample.ended_s
            times_s = [end_s] if count and end_s is not None else []
        if not times_s:
            return
        known = len(sample.chunk_tokens) == len(times_s) and sum(sample.chunk_tokens) == count
        weights = sample.chunk_tokens if known else count / len(times_s)
        self.all_tokens.add(times_s, weights)
        if sample.cause in (Cause.NONE, Cause.CUT_OFF):
            self.whole_tokens.add(times_s, weights)


def counts(tallies: Iterable[Tally]) -> Counts:
    """What became of the requests of several tallies."""
    held = list(tallies)
    causes: Counter[Cause] = Counter()
    for tally in held:
        causes.update(tally.causes)
    failed = sum(count for cause, count in causes.items() if is_failure(cause))
    completed = causes[Cause.NONE]
    return Counts(
        requests=causes.total(),
        completed=completed,
        failed=failed,
        cancelled=causes[Cause.CANCELLED],
        cut_off=causes[Cause.CUT_OFF],
        by_cause={cause.value: count for cause, count in causes.most_common() if cause is not Cause.NONE},
        error_share=failed / (completed + failed) if completed + failed else 0.0,
        one_token=sum(tally.one_token for tally in held),
        no_tokens=sum(tally.no_tokens for tally in held),
        tokens_from_usage=sum(tally.from_usage for tally in held),
        tokens_from_chunks=sum(tally.from_chunks for tally in held),
    )
