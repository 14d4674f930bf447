"""What a run came to: the shape of `summary.json`, and of what every report shows.

Durations are seconds, shares are parts of 1, rates are per second. A figure that can't be told is None, and something
beside it says why.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from penstock.bench.load.health import ClientHealth
from penstock.bench.plan import Stage

# Raised whenever a field changes its meaning or is taken away; new fields do not raise it.
SCHEMA_VERSION = 1


class VerdictKind(StrEnum):
    """Whether the numbers of a run can be stood behind; in the order of what spoils them most, the worst first."""

    CLIENT_LIMITED = "CLIENT_LIMITED"  # the load generator was the bottleneck, or late
    ERRORS = "ERRORS"  # too many requests failed
    NOT_STEADY = "NOT_STEADY"  # the figures moved all the time, so their percentiles belong to no state
    CACHE_TAINTED = "CACHE_TAINTED"  # prompts came from a cache that the workload did not ask for
    TOO_FEW_SAMPLES = "TOO_FEW_SAMPLES"  # less than the wanted percentile needs
    VALID = "VALID"


class Reason(msgspec.Struct, frozen=True):
    """One thing that speaks against a run.

    Args:
        kind: what it makes of the run.
        says: a sentence with the numbers.
        hint: what to do about it.
    """

    kind: VerdictKind
    says: str
    hint: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """The judgement on a run.

    Args:
        kind: the worst of the reasons' kinds; VALID where there is none.
        exit_code: of the command that made the run.
        reasons: all of them, the worst first.
        says: one line for people.
    """

    kind: VerdictKind
    exit_code: int
    reasons: list[Reason]
    says: str


class Percentile(msgspec.Struct, frozen=True):
    """One percentile with its 95 % interval.

    Args:
        p: from 0 to 100.
        value: None where there are not enough samples.
        low, high: the interval; None where the samples do not bound it.
        needs: how many samples this percentile asks for; `value` is None below it.
    """

    p: float
    value: float | None
    low: float | None = None
    high: float | None = None
    needs: int = 0


class Distribution(msgspec.Struct, frozen=True):
    """How one measure is spread over complete answers.

    Args:
        measure: its name in `measures.MEASURES`, which has its definition.
        unit: `s`, `tokens` or `tokens/s`.
        count: values that it is made of.
        mean, stdev, least, most: None where there is no value.
        mean_low, mean_high: the mean's 95 % interval; None below 30 values.
        percentiles: in ascending order of `p`.
        curve: its distribution for a plot: values at even steps of the share, 0 to 1; empty below two values.
    """

    measure: str
    unit: str
    count: int
    mean: float | None = None
    stdev: float | None = None
    least: float | None = None
    most: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    percentiles: list[Percentile] = []
    curve: list[float] = []

    def at(self, p: float) -> Percentile | None:
        """The percentile `p`; None where it was not asked for."""
        return next((each for each in self.percentiles if each.p == p), None)


class Counts(msgspec.Struct, frozen=True):
    """What became of the requests; nothing is left out.

    Args:
        requests: all but the warm-up; the sum of the next four.
        completed: with a whole answer.
        failed: with another end that nobody planned.
        cancelled: the client left, as planned.
        cut_off: the run ended first.
        by_cause: cause -> requests, of all that have no whole answer.
        error_share: failed / (completed + failed); 0 where there is neither.
        one_token: complete answers of one token, which have no TPOT.
        no_tokens: complete answers without any content.
        tokens_from_usage: complete answers whose tokens the server counted.
        tokens_from_chunks: complete answers whose tokens are only their chunks.
    """

    requests: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    cut_off: int = 0
    by_cause: dict[str, int] = {}
    error_share: float = 0.0
    one_token: int = 0
    no_tokens: int = 0
    tokens_from_usage: int = 0
    tokens_from_chunks: int = 0


class Window(msgspec.Struct, frozen=True):
    """The part of the time that rates and percentiles are taken from.

    Args:
        begins_s, ends_s: seconds from the start of the load.
        steady: whether nothing moved in it; None where that can't be told, or the load itself was to change.
        left_out: requests scheduled before it, while the figures were still moving.
        says: why, in a sentence.
    """

    begins_s: float
    ends_s: float
    steady: bool | None = None
    left_out: int = 0
    says: str = ""

    @property
    def length_s(self) -> float:
        """How long it is, seconds."""
        return max(0.0, self.ends_s - self.begins_s)


class Throughput(msgspec.Struct, frozen=True):
    """What went through in the window.

    Args:
        offered_per_s: requests scheduled.
        completed_per_s: whole answers that ended.
        output_tokens_per_s: tokens that arrived, of answers that became whole or were only cut off by the run's end.
        all_output_tokens_per_s: with those of answers that failed or were cancelled.
        input_tokens_per_s: prompt tokens of the whole answers that ended.
        output_tokens, input_tokens: in all, of whole answers, window or not.
        wasted_output_tokens: in all, of answers that did not become whole.
        in_flight_mean, in_flight_max: requests under way, from their scheduled time on.
    """

    offered_per_s: float = 0.0
    completed_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    all_output_tokens_per_s: float = 0.0
    input_tokens_per_s: float = 0.0
    output_tokens: int = 0
    input_tokens: int = 0
    wasted_output_tokens: int = 0
    in_flight_mean: float = 0.0
    in_flight_max: int = 0


class Goodput(msgspec.Struct, frozen=True):
    """How many of the requests that were scheduled in the window met every limit of the SLO.

    Args:
        slo: the limits as text, such as `ttft=500ms,tpot=50ms`.
        good: requests that met all.
        judged: requests with an answer to that question; failed ones are among them, as not good.
        undetermined: cancelled or cut off before they had missed a limit, or the figure is unknown.
        share: good / judged; None where none was judged.
        share_low, share_high: its 95 % interval (Wilson).
        per_s: good answers that ended in the window, per second.
        missed: limit -> requests that missed it.
    """

    slo: str
    good: int = 0
    judged: int = 0
    undetermined: int = 0
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    per_s: float = 0.0
    missed: dict[str, int] = {}


class Part(msgspec.Struct, frozen=True):
    """The figures of the whole run, of one prompt type, of one stage, or of one type in one stage.

    Args:
        label: what it is of.
        kind: the prompt type; None is all.
        stage: its place in `Summary.stages`; None is all.
        window: where rates and percentiles are from; of the whole run, from the first window to the last.
        counts: of all requests of the part, window or not.
        throughput: in the window.
        goodput: None without an SLO.
        measures: name -> distribution, in the order of `measures.MEASURES`; those without a value are missing.
    """

    label: str
    window: Window
    counts: Counts
    throughput: Throughput
    kind: str | None = None
    stage: int | None = None
    goodput: Goodput | None = None
    measures: dict[str, Distribution] = {}


class Moment(msgspec.Struct, frozen=True):
    """One step of time.

    Args:
        at_s: its middle, seconds from the start of the load.
        scheduled_per_s, completed_per_s, failed_per_s: requests.
        output_tokens_per_s: all tokens that arrived.
        in_flight: requests under way at its end, from their scheduled time on.
        ttft_p50_s, ttft_p95_s, e2e_p50_s, tpot_p50_s: of complete answers scheduled in it; None without any. A p95
            of few values is their largest: for the eye, not for a table.
    """

    at_s: float
    scheduled_per_s: float = 0.0
    completed_per_s: float = 0.0
    failed_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    in_flight: int = 0
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    e2e_p50_s: float | None = None
    tpot_p50_s: float | None = None


class Failure(msgspec.Struct, frozen=True):
    """Requests that failed alike.

    Args:
        cause: see `sample.Cause`.
        status: of the reply; 0 where none came.
        detail: the first one's own words.
        count: how many.
        first_s: when the first of them ended, seconds from the start of the load.
    """

    cause: str
    status: int
    detail: str
    count: int
    first_s: float | None


class Cache(msgspec.Struct, frozen=True):
    """What the server took from its prefix cache.

    Args:
        source: who told: `usage` of the replies, `engine` for its metrics, or `none`.
        hit_tokens, prompt_tokens: in all requests that it was told of.
        share: hits / prompt tokens; None where nobody told.
        expected_share: what the workload itself repeats.
        hit_tokens_per_request: mean; None where nobody told.
    """

    source: str = "none"
    hit_tokens: float = 0.0
    prompt_tokens: float = 0.0
    share: float | None = None
    expected_share: float = 0.0
    hit_tokens_per_request: float | None = None


class Kept(msgspec.Struct, frozen=True):
    """How much of a long run its percentiles are made of; counts and rates of tokens are of everything.

    Args:
        requests: kept one by one.
        requests_share: the part of all requests that were kept, drawn by their index; 1 is all of them.
        gaps: gaps between chunks that were kept, those of whole requests.
        gaps_share: the part of all requests whose gaps were kept.
    """

    requests: int = 0
    requests_share: float = 1.0
    gaps: int = 0
    gaps_share: float = 1.0


class Summary(msgspec.Struct):
    """One run.

    Args:
        schema_version: of this shape.
        duration_s: from the start of the load to the end of its last request.
        warmup: requests of the warm-up, which nothing here is made of.
        interrupted: it was ended early.
        all: everything together.
        kinds: by prompt type, in the order of their names; empty where there is one.
        stages: by stage; empty where there is one.
        cells: each prompt type in each stage, where there are several of both.
        plan: the stages as they were planned.
        over_time: for plots.
        failures: the most frequent first.
        cache: prefix-cache hits.
        kept: what percentiles are made of.
        client: how the load generator fared; None where nobody told.
        notes: sentences that a reader of the numbers must know.
        verdict: see `validity.judge`; None until it was asked.
    """

    all: Part
    schema_version: int = SCHEMA_VERSION
    duration_s: float = 0.0
    warmup: int = 0
    interrupted: bool = False
    kinds: list[Part] = []
    stages: list[Part] = []
    cells: list[Part] = []
    plan: list[Stage] = []
    over_time: list[Moment] = []
    failures: list[Failure] = []
    cache: Cache = msgspec.field(default_factory=Cache)
    kept: Kept = msgspec.field(default_factory=Kept)
    client: ClientHealth | None = None
    notes: list[str] = []
    verdict: Verdict | None = None


def schema() -> dict[str, Any]:
    """The JSON schema of `summary.json`."""
    return msgspec.json.schema(Summary)
