"""The same metrics pushed to an OpenTelemetry endpoint by OTLP over HTTP.

The library's instruments would keep every series that there ever was; here each push holds what is known now. What
the endpoint does not take is lost: the next push says it anew.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from penstock import __version__
from penstock.core.errors import PenstockError
from penstock.telemetry.families import Gathered

PATH = "/v1/metrics"
TIMEOUT_S = 5.0

_LIBRARY = "opentelemetry.exporter.otlp.proto.http"


# The beginning of each counter, in nanoseconds, and its value; by its name and labels.
Begun = dict[tuple[str, tuple[str, ...]], tuple[int, float]]


class PushError(PenstockError):
    """The endpoint did not take what was pushed."""

    code = "otlp_refused"


class Push:
    """Pushes families to an endpoint; its calls wait for the network.

    Args:
        endpoint: as `http://collector:4318`.
        timeout_s: of one push, its repetitions included.
        now_ns: Unix time in nanoseconds.
    """

    def __init__(
        self, endpoint: str, timeout_s: float = TIMEOUT_S, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._now_ns = now_ns
        self._begun: Begun = {}
        self._url = endpoint if endpoint.endswith(PATH) else f"{endpoint.rstrip('/')}{PATH}"
        self._exporter = OTLPMetricExporter(endpoint=self._url, timeout=timeout_s)
        self._resource = Resource.create(
            {
                "service.name": "penstock-exporter",
                "service.version": __version__,
                "host.name": socket.gethostname(),
            }
        )
        self._word = _LastWord()
        library = logging.getLogger(_LIBRARY)
        library.handlers, library.propagate = [self._word], False

    def send(self, families: Iterable[Gathered]) -> None:
        """Pushes once.

        Raises:
            PushError: it was not taken; the next push may be.
        """
        self._word.said = ""
        now_ns, gathered = self._now_ns(), list(families)
        self._begun = beginnings(self._begun, gathered, now_ns)
        found = data(gathered, self._resource, self._begun, now_ns)
        if self._exporter.export(found) is not MetricExportResult.SUCCESS:
            raise PushError(
                f"{self._url} did not take the metrics: {self._word.said or 'no reason was given'}",
                hint="is a collector listening there, and does it take metrics by OTLP over HTTP?",
            )

    def close(self) -> None:
        """Closes its connections."""
        self._exporter.shutdown()


def beginnings(known: Begun, families: Iterable[Gathered], now_ns: int) -> Begun:
    """Since when the counters count, of those that are there now, with what they have reached.

    That is when they were first seen, and anew where one fell: a kernel and an engine have counted before, nobody
    knows since when, and a beginning that is the moment of its value says so in OpenTelemetry's words.
    """
    found: Begun = {}
    for family, samples in families:
        for values, value in samples if family.kind == "counter" else ():
            begun_ns, reached = known.get((family.name, values), (now_ns, value))
            found[family.name, values] = now_ns if value < reached else begun_ns, value
    return found


def data(families: Iterable[Gathered], resource: Resource, begun: Begun, now_ns: int) -> MetricsData:
    """Families as OpenTelemetry has them."""
    metrics = [_metric(family, begun, now_ns) for family in families]
    scope = ScopeMetrics(InstrumentationScope("penstock.exporter", __version__), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(gathered: Gathered, begun: Begun, now_ns: int) -> Metric:
    family, samples = gathered
    counts = family.kind == "counter"
    points = [
        NumberDataPoint(
            dict(zip(family.labels, values, strict=True)),
            begun[family.name, values][0] if counts else 0,
            now_ns,
            float(value),
        )
        for values, value in samples
    ]
    held = Sum(points, AggregationTemporality.CUMULATIVE, True) if counts else Gauge(points)
    return Metric(family.name, family.text, "", held)


class _LastWord(logging.Handler):
    """Keeps what the library said last, instead of a line for each failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()[:500]
