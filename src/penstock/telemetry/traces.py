"""Traces leave here: spans of requests that have ended, sent to a collector by OpenTelemetry's SDK from a thread.

Nothing waits for the collector. What it does not take in time is lost, and counted.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from penstock import __version__
from penstock.core.config import TracesConfig
from penstock.core.errors import PenstockError
from penstock.core.record import RequestRecord
from penstock.telemetry.spans import spans_of

SERVICE = "penstock-gateway"
# 2,000 traced requests: some MB, and half a minute of a busy gateway that traces 5 %.
WAITING_MAX = 16_384
BATCH_MAX = 512
SEND_EVERY_S = 2.0
# At the end, for what is left to send.
CLOSE_WITHIN_S = 3.0


@dataclass(slots=True)
class SpanCounts:
    """Spans so far: sent, refused or not answered by the collector, and dropped because too many waited."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0


class Traces:
    """Takes records, and sends the spans of those that are traced.

    Args:
        exporter: sends spans; its `export` may block.
        on_state: told when the collector stops taking spans, and when it takes them again.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        on_state: Callable[[bool], None],
        *,
        send_every_s: float = SEND_EVERY_S,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self.counts = SpanCounts()
        self._sender = _Counting(exporter, self.counts, on_state)
        self._taken = 0
        self._waiting_max = waiting_max
        self._resource = _resource()
        self._processor = BatchSpanProcessor(
            self._sender,
            max_queue_size=waiting_max,
            schedule_delay_millis=send_every_s * 1000,
            max_export_batch_size=min(BATCH_MAX, waiting_max),
        )

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Makes the spans of these, and leaves them to the thread."""
        for record in records:
            spans = spans_of(record, self._resource)
            if self._taken - self.counts.sent - self.counts.failed + len(spans) > self._waiting_max:
                self.counts.dropped += len(spans)
                continue
            self._taken += len(spans)
            for span in spans:
                self._processor.on_end(span)

    def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Sends what is left, as far as that takes no longer; blocks."""
        last = threading.Thread(target=self._processor.shutdown, daemon=True)  # may wait for the collector
        last.start()
        last.join(within_s)


class _Counting(SpanExporter):
    """Counts what an exporter makes of its spans."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts, on_state: Callable[[bool], None]) -> None:
        self._exporter = exporter
        self._counts = counts
        self._on_state = on_state
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            works = result is SpanExportResult.SUCCESS
            if works:
                self._counts.sent += len(spans)
            else:
                self._counts.failed += len(spans)
            if works is not self._works:
                self._works = works
                # it has said why; each further try would say so again
                logging.getLogger("opentelemetry").setLevel(logging.NOTSET if works else logging.CRITICAL)
                self._on_state(works)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def open_exporter(config: TracesConfig) -> SpanExporter:
    """What sends spans to the configured collector, which need not be there yet.

    Raises:
        PenstockError: gRPC is asked for and not installed.
    """
    assert config.endpoint is not None
    headers = {name: secret.get_secret_value() for name, secret in config.headers.items()}
    if config.protocol == "grpc":
        module = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
        try:
            exporter = import_module(module).OTLPSpanExporter
        except ImportError as error:
            raise PenstockError(
                f"traces.protocol: grpc is not installed ({error})",
                code="models_unusable",
                hint="pip install penstock[otlp-grpc], or set traces.protocol to http",
            ) from error
        made: SpanExporter = exporter(
            endpoint=config.url,
            insecure=config.endpoint.startswith("http://"),
            headers=headers,
            timeout=config.timeout_s,
        )
        return made
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=config.url, headers=headers, timeout=config.timeout_s)


class _Sender(Resource):
    """Who sends spans, hashed once: the SDK asks for it with each of them, and would write JSON each time."""

    def __init__(self, known: Resource) -> None:
        super().__init__(known.attributes, known.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def _resource() -> Resource:
    known = Resource.create(
        {
            "service.name": SERVICE,
            "service.version": __version__,
            "service.instance.id": f"{platform.node()}-{os.getpid()}",
            "host.name": platform.node(),
            "process.pid": os.getpid(),
        }
    )
    return _Sender(known)
