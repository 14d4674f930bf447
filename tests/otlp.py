"""Collectors that take OTLP for real, by HTTP and by gRPC, and do what a test says."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Value = str | int | float | bool


@dataclass
class Collector:
    """What has come: spans in their order, the service of each by its id, headers of the last request.

    `status` is what it answers by HTTP.
    """

    port: int = 0
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, Value] = field(default_factory=dict)
    services: dict[bytes, Value] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource_spans in request.resource_spans:
            self.resource = attributes(resource_spans.resource)
            for scope_spans in resource_spans.scope_spans:
                self.spans += scope_spans.spans
                ids = (span.span_id for span in scope_spans.spans)
                self.services |= dict.fromkeys(ids, self.resource.get("service.name", ""))

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of this trace, by their start."""
        found = [span for span in self.spans if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: (span.start_time_unix_nano, span.span_id))


def attributes(of: Any) -> dict[str, Value]:
    """The attributes of a span or a resource, as plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@contextmanager
def http_collector() -> Iterator[Collector]:
    """Takes OTLP/HTTP on loopback."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.hold.wait(30)
            collector.headers = {name.lower(): value for name, value in self.headers.items()}
            if self.path != "/v1/traces":
                self.send_error(404)
                return
            if collector.status == 200:
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def grpc_collector() -> Iterator[Collector]:
    """Takes OTLP/gRPC on loopback."""
    collector = Collector()

    class Servicer(TraceServiceServicer):
        def Export(  # noqa: N802 - the name is the protocol's
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            collector.headers = {key: str(value) for key, value in context.invocation_metadata()}
            collector.take(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Servicer(), server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait(10)
