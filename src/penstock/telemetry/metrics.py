"""The gateway's Prometheus metrics, all made from records. Labels come from bounded sets only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

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

    Args:
        fleet: the snapshot of now.
        in_progress: requests under way.
    """

    def __init__(self, fleet: Callable[[], Fleet], in_progress: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        model = ("model",)
        self._requests = Counter(
            "penstock_requests",
            "Requests that have ended.",
            ("route", "model", "status", "outcome", "fault"),
            registry=self.registry,
        )
        self._duration = self._histogram("penstock_request_duration_seconds", "Whole requests.", model)
        self._ttft = self._histogram("penstock_ttft_seconds", "Arrival to the first token sent.", model)
        self._tpot = self._histogram("penstock_tpot_seconds", "Time per token after the first one.", model)
        self._overhead = Histogram(
            "penstock_gateway_overhead_seconds",
            "Arrival of a request to the start of its first attempt.",
            model,
            buckets=OVERHEAD_S,
            registry=self.registry,
        )
        self._tokens = Counter(
            "penstock_tokens", "Tokens in and out.", ("model", "kind"), registry=self.registry
        )
        self._retries = Counter(
            "penstock_retries",
            "Attempts that failed and were made again.",
            ("model", "failure"),
            registry=self.registry,
        )
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
        # `labels` costs more than `inc`: both look-ups are remembered, and bounded as the labels are
        self._of_ending = lru_cache(maxsize=1024)(
            lambda route, model, status, outcome, fault: self._requests.labels(
                route, model, status, outcome, fault
            )
        )
        self._of_model = lru_cache(maxsize=256)(self._bind)  # models are configured: 64 at most, and `other`

    def observe(self, record: RequestRecord) -> None:
        """Counts one request."""
        model = record.model or OTHER
        route = record.route if record.route in ROUTES else OTHER
        status = str(record.status) if record.status in _STATUSES else OTHER
        self._of_ending(route, model, status, record.outcome, record.fault).inc()
        bound = self._of_model(model)
        for histogram, seconds in zip(
            bound.histograms,
            (record.duration_s, record.ttft_s, record.tpot_s, record.overhead_s),
            strict=True,
        ):
            if seconds is not None:
                histogram.observe(seconds)
        bound.prompt_tokens.inc(record.usage.prompt_tokens or 0)
        bound.completion_tokens.inc(record.usage.completion_tokens or 0)
        for attempt in record.attempts[:-1]:
            self._retries.labels(model, attempt.failure).inc()

    def exposition(self) -> bytes:
        """The text for Prometheus."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, text, labels, buckets=LATENCY_S, registry=self.registry)

    def _bind(self, model: str) -> _OfModel:
        return _OfModel(
            tuple(h.labels(model) for h in (self._duration, self._ttft, self._tpot, self._overhead)),
            self._tokens.labels(model, "prompt"),
            self._tokens.labels(model, "completion"),
        )


class _OfModel:
    """The series of one model, looked up once."""

    __slots__ = ("completion_tokens", "histograms", "prompt_tokens")

    def __init__(
        self, histograms: tuple[Histogram, ...], prompt_tokens: Counter, completion_tokens: Counter
    ) -> None:
        self.histograms = histograms
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


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
