"""Spans are made of records, and sent to real collectors; what is not taken is counted, and nothing waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from tests.otlp import attributes, grpc_collector, http_collector

from penstock.core.config import TracesConfig
from penstock.core.record import Attempt, Outcome, RequestRecord, Trace, Usage
from penstock.telemetry.spans import spans_of
from penstock.telemetry.traces import SpanCounts, Traces, open_exporter

EPOCH_S = 1_700_000_000.0
RESOURCE = Resource({"service.name": "test"})
TRACE = Trace(trace_id=2**100 + 1, span_id=2**60, parent_id=0, sampled=True)


@pytest.fixture(autouse=True)
def library_may_speak_again() -> Iterator[None]:
    yield
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Traces quieten the SDK's log while a collector is away."""
    yield
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


def record(*, trace: Trace | None = TRACE, **members: object) -> RequestRecord:
    """A stream that failed at one replica and was answered by another, 100 s after the clock's beginning."""
    known: dict[str, object] = {
        "model": "m",
        "tenant": "team",
        "key_id": "k1",
        "stream": True,
        "status": 200,
        "outcome": Outcome.COMPLETE,
        "body_read_s": 100.001,
        "lined_up_s": 100.001,
        "admitted_s": 100.101,
        "first_token_s": 100.5,
        "last_token_s": 100.9,
        "ended_s": 101.0,
        "usage": Usage(12, 5, "engine"),
        "attempts": [
            Attempt("m-0", "least_load", 100.101, status=500, failure="lost", ended_s=100.15),
            Attempt("m-1", "retry", 100.2, connected_s=100.25, status=200, ended_s=100.95),
        ],
        "trace": trace,
        **members,
    }
    return RequestRecord("req_1", "POST", "/v1/chat/completions", 100.0, EPOCH_S, **known)  # type: ignore[arg-type]


def shape(spans: list[ReadableSpan]) -> list[tuple[str, str, float, float]]:
    """Name, parent's name, and times in ms from the request's beginning."""
    names = {span.context.span_id: f"{span.kind.name} {span.name}" for span in spans if span.context}
    return [
        (
            f"{span.kind.name} {span.name}",
            names.get(span.parent.span_id, "elsewhere") if span.parent else "",
            round(((span.start_time or 0) / 1e9 - EPOCH_S) * 1000, 1),
            round(((span.end_time or 0) / 1e9 - EPOCH_S) * 1000, 1),
        )
        for span in spans
    ]


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_request_becomes_a_span_with_its_stages_and_attempts() -> None:
    spans = spans_of(record(), RESOURCE)

    assert shape(spans) == [
        ("SERVER chat m", "", 0.0, 1000.0),
        ("INTERNAL receive", "SERVER chat m", 0.0, 1.0),
        ("INTERNAL queue", "SERVER chat m", 1.0, 101.0),
        ("CLIENT chat m", "SERVER chat m", 101.0, 150.0),
        ("CLIENT chat m", "SERVER chat m", 200.0, 950.0),
        ("INTERNAL prefill", "CLIENT chat m", 250.0, 500.0),
        ("INTERNAL decode", "CLIENT chat m", 500.0, 900.0),
    ]
    ids = [span.context.span_id for span in spans if span.context]
    assert len(set(ids)) == len(spans)
    assert TRACE.span_below(2) == ids[4]  # what the engine was told
    assert [span.status.status_code for span in spans if span.kind is SpanKind.CLIENT] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]


def test_a_wait_that_was_none_has_no_span() -> None:
    at_once = record(body_read_s=100.0002, lined_up_s=100.0002, admitted_s=100.0003)

    names = [span.name for span in spans_of(at_once, RESOURCE)]

    assert names == ["chat m", "chat m", "chat m", "prefill", "decode"]


def test_it_tells_what_is_known_of_it_and_nothing_that_was_said() -> None:
    told = dict(spans_of(record(), RESOURCE)[0].attributes or {})

    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.usage.input_tokens"] == 12
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.5)
    assert told["http.response.status_code"] == 200
    assert told["penstock.tenant"] == "team"
    assert "error.type" not in told


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"status": 503, "outcome": Outcome.REJECTED, "error_code": "queue_full"}, StatusCode.ERROR),
        ({"outcome": Outcome.INTERRUPTED, "error_code": "replica_lost"}, StatusCode.ERROR),
        ({"status": 404, "outcome": Outcome.REJECTED, "error_code": "model_not_found"}, StatusCode.UNSET),
    ],
)
def test_only_what_a_server_did_wrong_is_an_error(members: dict[str, object], code: StatusCode) -> None:
    span = spans_of(record(attempts=[], **members), RESOURCE)[0]

    assert span.status.status_code is code
    assert (span.attributes or {})["error.type"] == members["error_code"]


@pytest.mark.parametrize("trace", [None, Trace(1, 2, 0, sampled=False)])
def test_what_is_not_traced_has_no_spans(trace: Trace | None) -> None:
    assert spans_of(record(trace=trace), RESOURCE) == []


def test_a_client_s_span_is_the_parent() -> None:
    span = spans_of(record(trace=Trace(9, 8, 7, sampled=True)), RESOURCE)[0]

    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.parent.is_remote) == (9, 7, True)


def test_spans_reach_a_collector_by_http_with_its_headers() -> None:
    with http_collector() as collector:
        config = TracesConfig.model_validate({"endpoint": collector.url, "headers": {"x-api-key": "its-key"}})
        traces = Traces(open_exporter(config), lambda _: None)
        traces.take([record()])
        traces.close()

        assert [span.name for span in collector.trace(f"{TRACE.trace_id:032x}")][:1] == ["chat m"]
        assert len(collector.spans) == 7
        assert collector.headers["x-api-key"] == "its-key"
        assert collector.resource["service.name"] == "penstock-gateway"
        assert attributes(collector.spans[0])["penstock.request_id"] == "req_1"
        assert traces.counts == SpanCounts(sent=7)


def test_spans_reach_a_collector_by_grpc() -> None:
    with grpc_collector() as collector:
        config = TracesConfig.model_validate(
            {"endpoint": collector.url, "protocol": "grpc", "headers": {"x-api-key": "its-key"}}
        )
        traces = Traces(open_exporter(config), lambda _: None)
        traces.take([record()])
        traces.close()

        assert len(collector.spans) == 7
        assert collector.headers["x-api-key"] == "its-key"


def test_a_collector_that_refuses_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    states: list[bool] = []
    with http_collector() as collector:
        collector.status = 400
        exporter = OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces", timeout=2)
        traces = Traces(exporter, states.append, send_every_s=0.01)
        for expected in (7, 14):
            traces.take([record()])
            wait_until(lambda count=expected: traces.counts.failed == count)
        collector.status = 200
        traces.take([record()])
        wait_until(lambda: traces.counts.sent == 7)
        traces.close()

    assert states == [False, True]
    (line,) = [line for line in caplog.records if line.name.startswith("opentelemetry")]
    assert "400" in line.getMessage()


def test_one_that_is_slow_costs_spans_and_no_memory_and_no_time() -> None:
    with http_collector() as collector:
        collector.hold.clear()
        exporter = OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces", timeout=60)
        traces = Traces(exporter, lambda _: None, send_every_s=0.01, waiting_max=70)
        traces.take([record()] * 15)

        begun_s = time.monotonic()
        traces.close(within_s=0.2)

        assert time.monotonic() - begun_s < 5
        assert traces.counts.dropped == 35
        collector.hold.set()


def test_one_that_is_not_there_is_no_trouble() -> None:
    config = TracesConfig.model_validate({"endpoint": "http://127.0.0.1:9", "timeout": "100ms"})
    traces = Traces(open_exporter(config), lambda _: None, send_every_s=0.01)
    traces.take([record()])
    wait_until(lambda: traces.counts.failed == 7)
    traces.close()
