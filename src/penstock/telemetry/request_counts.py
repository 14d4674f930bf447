"""What is counted of requests that have ended, made from their records alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from operator import attrgetter

from penstock.core.config import ModelConfig
from penstock.core.record import Outcome, RequestRecord
from penstock.core.times import Times
from penstock.policy.admit import Reason
from penstock.policy.objectives import judged
from penstock.policy.retry import Failure
from penstock.telemetry import catalog
from penstock.telemetry.boundaries import LATENCY_S, OVERHEAD_S, TOKEN_S, Boundaries, boundaries_of
from penstock.telemetry.families import Family

ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/generate"})
OTHER = "other"
# Whose class is not known: it was refused before.
NO_CLASS = "none"
_STATUSES = frozenset({*map(int, HTTPStatus), 499})  # an engine may answer with any number
_REASONS = frozenset(Reason)
# Who was turned away by these has not waited; who had to make room for another is one of a few.
_AT_ONCE = _REASONS - {Reason.QUEUE_TIMEOUT}
# How attempts fail that are made again. Who was outrun in a race, or lost amid its answer, is counted elsewhere.
_RETRIED = frozenset(Failure)
# The limit of a client's address, by the code of its error; those of a key or tenant are on the record.
_ADDRESS_LIMITS = {"too_many_requests_from_address": "address_requests_per_second"}
# Series of one family: what is beyond, in a gateway of 50 models that meets every kind of trouble, counts as `other`.
SERIES_MAX = 5000


class Counts:
    """Numbers by the values of labels, so many at most.

    Args:
        family: what they are shown as.
    """

    __slots__ = ("_counts", "_family", "_overflow")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._counts: dict[tuple[str, ...], int] = {}
        self._overflow = (OTHER,) * len(family.labels)

    def add(self, *values: str) -> None:
        """Counts one more."""
        counts = self._counts
        if values in counts:
            counts[values] += 1
        elif len(counts) < SERIES_MAX:
            counts[values] = 1
        else:
            counts[self._overflow] = counts.get(self._overflow, 0) + 1

    def lines(self) -> Iterator[str]:
        """Its part of the page."""
        return self._family.lines(self._counts.items())


class _OfModel:
    """What is counted of one model."""

    __slots__ = (
        *("_e2e", "completion_tokens", "continuations", "cost_usd", "duration", "good", "hedges", "itl"),
        *("judged", "limits_s", "overhead", "prompt_tokens", "queue", "replays", "targets", "tpot", "ttft"),
    )

    def __init__(self, boundaries: Boundaries) -> None:
        self.queue: dict[str, Times] = {}
        self.itl = Times(TOKEN_S)
        self.overhead = Times(OVERHEAD_S)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.continuations = 0
        self.hedges = 0
        self.replays = 0
        self.cost_usd = 0.0
        self.limits_s: Mapping[str, float] = {}
        self.targets: Mapping[str, float] = {}
        self.judged: dict[str, int] = {}
        self.good: dict[str, int] = {}
        self.measure_by(boundaries)

    def measure_by(self, boundaries: Boundaries) -> None:
        """Begins the histograms anew, with other boundaries: to Prometheus, as if the gateway were started again."""
        self._e2e = boundaries.e2e
        # from the first scrape on, as those below
        self.duration = {Outcome.COMPLETE.value: Times(boundaries.e2e)}
        self.ttft = Times(boundaries.ttft)
        self.tpot = Times(boundaries.tpot)

    def hold_to(self, model: ModelConfig) -> None:
        """Judges by the objectives of this configuration from now on."""
        self.limits_s, self.targets = model.slo.limits_s, model.slo.targets
        # from the first scrape on, so that the first request that is bad is seen as an increase
        self.judged = {name: self.judged.get(name, 0) for name in self.targets}
        self.good = {name: self.good.get(name, 0) for name in self.targets}

    def judge(self, record: RequestRecord) -> None:
        """Counts what it met."""
        for name, good in judged(record, self.limits_s).items():
            if name in self.targets:
                self.judged[name] += 1
                self.good[name] += good

    def observe(self, record: RequestRecord, priority: str) -> None:
        """Counts its times and tokens."""
        self._observe_times(record, priority)
        usage = record.usage
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0
        self.cost_usd += record.cost_usd
        self.continuations += record.continuations
        self.hedges += record.hedged
        self.replays += record.replayed

    def _observe_times(self, record: RequestRecord, priority: str) -> None:
        if (duration_s := record.duration_s) is not None:
            _times(self.duration, record.told_outcome.value, self._e2e).observe(duration_s)
        if (ttft_s := record.ttft_s) is not None:
            self.ttft.observe(ttft_s)
        if (queue_s := record.queue_s) is not None and record.error_code not in _AT_ONCE:
            _times(self.queue, priority, LATENCY_S).observe(queue_s)
        if (tpot_s := record.tpot_s) is not None:
            self.tpot.observe(tpot_s)
        if record.gaps is not None:
            self.itl.add(record.gaps)
        if (overhead_s := record.overhead_s) is not None:
            self.overhead.observe(overhead_s)


def _times(known: dict[str, Times], name: str, bounds: tuple[float, ...]) -> Times:
    """The histogram of this name, made when it is first needed."""
    times = known.get(name)
    if times is None:
        times = known[name] = Times(bounds)
    return times


class RequestCounts:
    """Counts requests, by the configuration in force."""

    def __init__(self, models: Iterable[ModelConfig]) -> None:
        self._endings = Counts(catalog.REQUESTS)
        self._errors = Counts(catalog.ERRORS)
        self._limits_hit = Counts(catalog.LIMITS_HIT)
        self._retries = Counts(catalog.RETRIES)
        self._rejections = Counts(catalog.QUEUE_REJECTIONS)
        self._boundaries = Boundaries()
        self._other = _OfModel(self._boundaries)
        self._models: dict[str, _OfModel] = {}
        self.follow(models)

    def follow(self, models: Iterable[ModelConfig]) -> None:
        """Goes by another configuration: its models, objectives and boundaries. What others were is forgotten."""
        models = tuple(models)
        boundaries = boundaries_of(models)
        if boundaries != self._boundaries:
            self._boundaries = boundaries
            for of_model in (*self._models.values(), self._other):
                of_model.measure_by(boundaries)
        known = self._models
        self._models = {model.name: known.get(model.name) or _OfModel(boundaries) for model in models}
        for model in models:
            self._models[model.name].hold_to(model)

    def observe(self, record: RequestRecord) -> None:
        """Counts a request."""
        of_model = self._models.get(record.model)
        model = record.model
        if of_model is None:
            of_model, model = self._other, OTHER
        priority = record.priority or NO_CLASS
        route = record.route if record.route in ROUTES else OTHER
        status = str(record.status) if record.status in _STATUSES else OTHER
        self._endings.add(route, model, priority, status, record.told_outcome.value, record.fault)
        of_model.observe(record, priority)
        if of_model.targets:
            of_model.judge(record)
        if record.error_code:
            self._observe_error(record, model, priority)
        for attempt in record.attempts[:-1]:
            if attempt.failure in _RETRIED:
                self._retries.add(model, attempt.failure)

    def _observe_error(self, record: RequestRecord, model: str, priority: str) -> None:
        code = record.error_code
        self._errors.add(model, code)
        if code in _REASONS:
            self._rejections.add(model, priority, code)
        limit = record.limit or _ADDRESS_LIMITS.get(code, "")
        if limit:
            self._limits_hit.add(model, limit)

    def lines(self) -> Iterator[str]:
        """Their part of the page."""
        shown = [*self._models.items(), (OTHER, self._other)]
        for counts in (self._endings, self._errors, self._limits_hit, self._retries, self._rejections):
            yield from counts.lines()
        yield from catalog.TOKENS.lines(
            ((name, kind), tokens)
            for name, of in shown
            for kind, tokens in (("prompt", of.prompt_tokens), ("completion", of.completion_tokens))
        )
        for family, count_of in _COUNTERS:
            yield from family.lines(((name,), count_of(of)) for name, of in shown)
        for family, times_of in _HISTOGRAMS:
            yield from family.times(((name,), times_of(of)) for name, of in shown)
        for family, by_name in _HISTOGRAMS_BY_NAME:
            yield from family.times(
                ((model, name), times) for model, of in shown for name, times in by_name(of).items()
            )
        yield from self._objectives()

    def _objectives(self) -> Iterator[str]:
        for family, of_objective in _OBJECTIVES:
            yield from family.lines(
                ((model, name), value)
                for model, of in self._models.items()
                for name, value in of_objective(of).items()
            )


_COUNTERS = (
    (catalog.COST, attrgetter("cost_usd")),
    (catalog.CONTINUATIONS, attrgetter("continuations")),
    (catalog.HEDGES, attrgetter("hedges")),
    (catalog.REPLAYS, attrgetter("replays")),
)
_HISTOGRAMS = (
    (catalog.TTFT, attrgetter("ttft")),
    (catalog.TPOT, attrgetter("tpot")),
    (catalog.ITL, attrgetter("itl")),
    (catalog.OVERHEAD, attrgetter("overhead")),
)
_HISTOGRAMS_BY_NAME = (
    (catalog.DURATION, attrgetter("duration")),
    (catalog.QUEUE_WAIT, attrgetter("queue")),
)
_OBJECTIVES = (
    (catalog.SLO_REQUESTS, attrgetter("judged")),
    (catalog.SLO_GOOD, attrgetter("good")),
    (catalog.SLO_TARGET, attrgetter("targets")),
    (catalog.SLO_LIMIT, attrgetter("limits_s")),
)
