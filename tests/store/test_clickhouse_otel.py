"""OpenTelemetry's tables have the columns that collectors write, on a real ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.core.config import ClickHouseConfig
from penstock.store.clickhouse.migrations import migrations
from tests.clickhouse import ClickHouseServer, clickhouse

ATTRIBUTES = "Map(String, String)"
TYPES = {
    **dict.fromkeys(("Timestamp", "StartTimeUnix", "TimeUnix"), "DateTime64(9)"),
    **dict.fromkeys(("Duration", "Count", "ZeroCount"), "UInt64"),
    **dict.fromkeys(("Value", "Sum", "Min", "Max"), "Float64"),
    **dict.fromkeys(("Scale", "PositiveOffset", "NegativeOffset", "AggregationTemporality"), "Int32"),
    **dict.fromkeys(("Flags", "ScopeDroppedAttrCount"), "UInt32"),
    **dict.fromkeys(("TraceFlags", "SeverityNumber"), "UInt8"),
    **dict.fromkeys(("BucketCounts", "PositiveBucketCounts", "NegativeBucketCounts"), "Array(UInt64)"),
    **dict.fromkeys(
        ("Attributes", *(f"{what}Attributes" for what in ("Resource", "Scope", "Span", "Log"))), ATTRIBUTES
    ),
    **dict.fromkeys(
        ("Events.Attributes", "Links.Attributes", "Exemplars.FilteredAttributes"), f"Array({ATTRIBUTES})"
    ),
    **dict.fromkeys(("Events.Timestamp", "Exemplars.TimeUnix"), "Array(DateTime64(9))"),
    **dict.fromkeys(("ExplicitBounds", "Exemplars.Value", "ValueAtQuantiles.Quantile"), "Array(Float64)"),
    **dict.fromkeys(("Events.Name", "Links.TraceId", "Links.SpanId", "Links.TraceState"), "Array(String)"),
    **dict.fromkeys(("Exemplars.SpanId", "Exemplars.TraceId"), "Array(String)"),
    "ValueAtQuantiles.Value": "Array(Float64)",
    "IsMonotonic": "Bool",
}
_POINT = (
    "ResourceAttributes ResourceSchemaUrl ScopeName ScopeVersion ScopeAttributes ScopeDroppedAttrCount ScopeSchemaUrl "
    "ServiceName MetricName MetricDescription MetricUnit Attributes StartTimeUnix TimeUnix Flags "
)
_EXEMPLARS = (
    "Exemplars.FilteredAttributes Exemplars.TimeUnix Exemplars.Value Exemplars.SpanId Exemplars.TraceId "
)
_COUNTED = f"{_POINT}{_EXEMPLARS}Count Sum Min Max AggregationTemporality "
COLLECTED = {
    "otel_traces": "Timestamp TraceId SpanId ParentSpanId TraceState SpanName SpanKind ServiceName ResourceAttributes "
    "ScopeName ScopeVersion SpanAttributes Duration StatusCode StatusMessage Events.Timestamp Events.Name "
    "Events.Attributes Links.TraceId Links.SpanId Links.TraceState Links.Attributes",
    "otel_logs": "Timestamp TraceId SpanId TraceFlags SeverityText SeverityNumber ServiceName Body ResourceSchemaUrl "
    "ResourceAttributes ScopeSchemaUrl ScopeName ScopeVersion ScopeAttributes LogAttributes EventName",
    "otel_metrics_gauge": f"{_POINT}{_EXEMPLARS}Value",
    "otel_metrics_sum": f"{_POINT}{_EXEMPLARS}Value AggregationTemporality IsMonotonic",
    "otel_metrics_histogram": f"{_COUNTED}BucketCounts ExplicitBounds",
    "otel_metrics_exponential_histogram": f"{_COUNTED}Scale ZeroCount PositiveOffset PositiveBucketCounts "
    "NegativeOffset NegativeBucketCounts",
    "otel_metrics_summary": f"{_POINT}Count Sum ValueAtQuantiles.Quantile ValueAtQuantiles.Value",
}
"""The columns that the Collector's ClickHouse exporter writes (its source of mid-2026), and Rotel 0.0.1a15 likewise."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with clickhouse(tmp_path_factory.mktemp("clickhouse")) as server:
        for migration in migrations(ClickHouseConfig()):
            for statement in migration.statements:
                server.run(statement)
        yield server


def test_spans_logs_and_metrics_fit_their_tables(server: ClickHouseServer) -> None:
    columns = "SELECT name, type FROM system.columns WHERE database = 'default' AND table"
    for table, names in COLLECTED.items():
        types = dict(server.query(f"{columns} = '{table}'"))
        of_table = {
            name: types.get(name, "").replace("LowCardinality(String)", "String") for name in names.split()
        }

        assert of_table == {name: TYPES.get(name, "String") for name in names.split()}, table


def test_what_is_asked_for_often_is_a_column_of_its_own(server: ClickHouseServer) -> None:
    span = (
        "Timestamp, TraceId, SpanId, ParentSpanId, TraceState, SpanName, SpanKind, ServiceName, ResourceAttributes, "
        "ScopeName, ScopeVersion, SpanAttributes, Duration, StatusCode, StatusMessage"
    )
    server.run(
        f"INSERT INTO otel_traces ({span}) VALUES (now64(9), 'aa', 'bb', '', '', 'chat m', 'Server', 'gateway', {{}}, "
        "'', '', {'gen_ai.request.model': 'm', 'penstock.request_id': 'req_1'}, 5, 'Unset', '')"
    )

    assert server.query("SELECT Model, RequestId FROM otel_traces") == [["m", "req_1"]]
    assert server.query("SELECT TraceId FROM otel_traces_trace_id_ts") == [["aa"]]
    server.run(
        "INSERT INTO otel_logs (Timestamp, Body, LogAttributes) VALUES (now64(9), 'the body', {'request_id': 'r1'})"
    )
    found = server.query("SELECT RequestId, Body FROM otel_logs WHERE hasToken(Body, 'body')")
    assert found == [["r1", "the body"]]
