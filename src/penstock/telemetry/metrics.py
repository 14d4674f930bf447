"""The gateway's Prometheus metrics, all made from records. Labels come from bounded sets only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import accumulate
from operator import attrgetter
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from penstock import __version__
from penstock.core.record import RequestRecord
from penstock.policy.fleet import Fleet, State

# Seconds: 1 ms to 10 min, the range from a gateway's own cost to the longest request.
LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)

ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/generate"})
OTHER = "other"
_STATUSES = frozenset({*map(int, HTTPStatus), 499})  # an engine may answer with any number


class Metrics:
    """What `/metrics` shows.

    Requests are counted in plain numbers, and become Prometheus's families when they are asked for: the library's
    own counters and histograms cost more for each request than all the rest of its record.

    Args:
        fleet: the snapshot of now.
        in_progress: requests under way.
    """

    def __init__(self, fleet: Callable[[], Fleet], in_progress: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._requests = _RequestCollector()
        self.registry.register(self._requests)
        in_progress_gauge = Gauge(
            "penstock_requests_in_progress", "Requests under way.", registry=self.registry
        )
        in_progress_gauge.set_function(in_progress)
        build = Gauge(
            "penstock_build_info", "The version that runs; always 1.", ("version",), registry=self.registry
        )
        build.labels(__version__).set(1)
        self.registry.register(_FleetCollector(fleet))
        ProcessCollector(registry=self.registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Shows one more number, asked for when it is wanted."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def counter(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Shows one more number that only grows, asked for when it is wanted."""
        self.registry.register(_Counter(name, text, value))

    def lines(self, lines: Callable[[], Mapping[str, LineFigures]]) -> None:
        """Shows the lines before the models."""
        self.registry.register(_LineCollector(lines))

    def observe(self, records: Sequence[RequestRecord]) -> None:
        """Counts requests."""
        for record in records:
            self._requests.observe(record)

    def exposition(self) -> bytes:
        """The text for Prometheus."""
        return generate_latest(self.registry)


class LineFigures(Protocol):
    """What is shown of a line."""

    @property
    def by_class(self) -> Mapping[str, int]:
        """Waiting requests of each class."""

    @property
    def permits_out(self) -> int:
        """Permits that are held."""

    @property
    def capacity(self) -> int:
        """Permits there are."""


class _Times:
    """A histogram: how many values were at most each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def add_to(self, family: HistogramMetricFamily, label: str) -> None:
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric((label,), list(zip(bounds, accumulate(self._counts), strict=True)), self._sum_s)


class _OfModel:
    """What is counted of one model."""

    __slots__ = (
        *("completion_tokens", "continuations", "cost_usd", "duration", "hedges", "overhead"),
        *("prompt_tokens", "queue", "replays", "tpot", "ttft"),
    )

    def __init__(self) -> None:
        self.duration = _Times(LATENCY_S)
        self.queue = _Times(LATENCY_S)
        self.ttft = _Times(LATENCY_S)
        self.tpot = _Times(LATENCY_S)
        self.overhead = _Times(OVERHEAD_S)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.continuations = 0
        self.hedges = 0
        self.replays = 0
        self.cost_usd = 0.0


class _RequestCollector(Collector):
    """All that is made from records."""

    def __init__(self) -> None:
        self._endings: dict[tuple[str, str, str, str, str], int] = {}
        self._retries: dict[tuple[str, str], int] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._models: dict[str, _OfModel] = {}

    def observe(self, record: RequestRecord) -> None:
        model = record.model or OTHER
        route = record.route if record.route in ROUTES else OTHER
        status = str(record.status) if record.status in _STATUSES else OTHER
        ending = (route, model, status, record.outcome, record.fault)
        self._endings[ending] = self._endings.get(ending, 0) + 1
        of_model = self._models.get(model)
        if of_model is None:
            of_model = self._models[model] = _OfModel()
        _observe_times(of_model, record)
        usage = record.usage
        of_model.prompt_tokens += usage.prompt_tokens or 0
        of_model.completion_tokens += usage.completion_tokens or 0
        of_model.cost_usd += record.cost_usd
        of_model.continuations += record.continuations
        of_model.hedges += record.hedged
        of_model.replays += record.replayed
        if record.error_code:
            error = (model, record.error_code)
            self._errors[error] = self._errors.get(error, 0) + 1
        for attempt in record.attempts[:-1]:
            retry = (model, attempt.failure)
            self._retries[retry] = self._retries.get(retry, 0) + 1

    def collect(self) -> Iterable[Metric]:
        labels = ("route", "model", "status", "outcome", "fault")
        requests = CounterMetricFamily("penstock_requests", "Requests that have ended.", labels=labels)
        for ending, count in self._endings.items():
            requests.add_metric(ending, count)
        retries = CounterMetricFamily(
            "penstock_retries", "Attempts that failed and were made again.", labels=("model", "failure")
        )
        for retry, count in self._retries.items():
            retries.add_metric(retry, count)
        tokens = CounterMetricFamily("penstock_tokens", "Tokens in and out.", labels=("model", "kind"))
        for model, of_model in self._models.items():
            tokens.add_metric((model, "prompt"), of_model.prompt_tokens)
            tokens.add_metric((model, "completion"), of_model.completion_tokens)
        errors = CounterMetricFamily(
            "penstock_errors", "Requests that ended with an error, by its code.", labels=("model", "code")
        )
        for error, count in self._errors.items():
            errors.add_metric(error, count)
        yield from (requests, errors, tokens, retries, *self._counts(), *self._times())

    def _counts(self) -> Iterable[Metric]:
        for name, text, count_of in _COUNTERS:
            family = CounterMetricFamily(name, text, labels=("model",))
            for model, of_model in self._models.items():
                family.add_metric((model,), count_of(of_model))
            yield family

    def _times(self) -> Iterable[Metric]:
        for name, text, times_of in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=("model",))
            for model, of_model in self._models.items():
                times_of(of_model).add_to(family, model)
            yield family


def _observe_times(of_model: _OfModel, record: RequestRecord) -> None:
    if (duration_s := record.duration_s) is not None:
        of_model.duration.observe(duration_s)
    if (ttft_s := record.ttft_s) is not None:
        of_model.ttft.observe(ttft_s)
    if (queue_s := record.queue_s) is not None:
        of_model.queue.observe(queue_s)
    if (tpot_s := record.tpot_s) is not None:
        of_model.tpot.observe(tpot_s)
    if (overhead_s := record.overhead_s) is not None:
        of_model.overhead.observe(overhead_s)


_COUNTERS: tuple[tuple[str, str, Callable[[_OfModel], float]], ...] = (
    ("penstock_cost_usd", "Cost at the configured prices.", attrgetter("cost_usd")),
    ("penstock_continuations", "Answers that another replica went on with.", attrgetter("continuations")),
    ("penstock_hedges", "Requests for which a second attempt raced the first.", attrgetter("hedges")),
    ("penstock_replays", "Requests answered by an answer made before.", attrgetter("replays")),
)

_HISTOGRAMS: tuple[tuple[str, str, Callable[[_OfModel], _Times]], ...] = (
    ("penstock_request_duration_seconds", "Whole requests.", attrgetter("duration")),
    ("penstock_queue_wait_seconds", "Waits in line for a permit.", attrgetter("queue")),
    ("penstock_ttft_seconds", "Arrival to the first token sent.", attrgetter("ttft")),
    ("penstock_tpot_seconds", "Time per token after the first one.", attrgetter("tpot")),
    (
        "penstock_gateway_overhead_seconds",
        "Arrival of a request to the start of its first attempt, without its wait in line.",
        attrgetter("overhead"),
    ),
)


class _Counter(Collector):
    """One number that only grows."""

    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self._value())


class _LineCollector(Collector):
    """Who waits, and how many permits are out."""

    def __init__(self, lines: Callable[[], Mapping[str, LineFigures]]) -> None:
        self._lines = lines

    def collect(self) -> Iterable[GaugeMetricFamily]:
        waiting = GaugeMetricFamily("penstock_queue_length", "Waiting requests.", labels=("model", "class"))
        out = GaugeMetricFamily("penstock_permits_out", "Permits that are held.", labels=("model",))
        capacity = GaugeMetricFamily("penstock_permits", "Permits there are.", labels=("model",))
        for model, line in self._lines().items():
            for priority, length in line.by_class.items():
                waiting.add_metric((model, priority), length)
            out.add_metric((model,), line.permits_out)
            capacity.add_metric((model,), line.capacity)
        yield from (waiting, out, capacity)


class _FleetCollector(Collector):
    """How many replicas are in which state."""

    def __init__(self, fleet: Callable[[], Fleet]) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily("penstock_replicas", "Replicas by state.", labels=("model", "state"))
        replicas = self._fleet().replicas
        for model in sorted({replica.model for replica in replicas}):
            for state in State:
                count = sum(replica.model == model and replica.state is state for replica in replicas)
                family.add_metric((model, state.value), count)
        yield family
