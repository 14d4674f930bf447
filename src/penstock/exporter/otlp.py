"""The same metrics pushed to an OpenTelemetry endpoint by OTLP over HTTP.

The library's instruments would keep every series that there ever was; here each push holds what is known now. What
the endpoint does not take is lost: the next push says it anew.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable

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


class PushError(PenstockError):
    """The endpoint did not take what was pushed."""

    code = "otlp_refused"


class Push:
    """Pushes families to an endpoint; its calls wait for the network.

    Args:
        endpoint: as `http://collector:4318`.
        begun_ns: when the counters began, Unix time in nanoseconds.
        timeout_s: of one push, its repetitions included.
    """

    def __init__(self, endpoint: str, begun_ns: int, timeout_s: float = TIMEOUT_S) -> None:
        self._begun_ns = begun_ns
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
        found = data(families, self._resource, self._begun_ns, time.time_ns())
        if self._exporter.export(found) is not MetricExportResult.SUCCESS:
            raise PushError(
                f"{self._url} did not take the metrics: {self._word.said or 'no reason was given'}",
                hint="is a collector listening there, and does it take metrics by OTLP over HTTP?",
            )

    def close(self) -> None:
        """Closes its connections."""
        self._exporter.shutdown()


def data(families: Iterable[Gathered], resource: Resource, begun_ns: int, now_ns: int) -> MetricsData:
    """Families as OpenTelemetry has them."""
    metrics = [_metric(family, begun_ns, now_ns) for family in families]
    scope = ScopeMetrics(InstrumentationScope("penstock.exporter", __version__), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(gathered: Gathered, begun_ns: int, now_ns: int) -> Metric:
    family, samples = gathered
    counts = family.kind == "counter"
    points = [
        NumberDataPoint(
            dict(zip(family.labels, values, strict=True)),
            begun_ns if counts else 0,
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
