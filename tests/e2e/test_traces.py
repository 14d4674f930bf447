"""A request's trace, from a client through the gateway to an engine and a real collector."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from penstock.wire.traceparent import parse_traceparent
from tests.e2e.processes import Gateway, ready_gateway, remote, sim_engine, wait_until
from tests.e2e.scripted import (
    ROLE,
    ScriptedEngine,
    answer,
    begin_stream,
    end_stream,
    say,
    scripted_engine,
    token,
)
from tests.otlp import Collector, attributes, http_collector

TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with http_collector() as server:
        yield server


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    """Fails at its first request, and streams an answer to all others."""

    def script(sock, count):  # type: ignore[no-untyped-def]
        if len(server.requests) == 1:
            return answer(sock, b"{}", b"500 Internal Server Error")
        begin_stream(sock)
        say(sock, ROLE + token("Hello") + token(" there", '{"prompt_tokens":3,"completion_tokens":2}'))
        return end_stream(sock)

    with scripted_engine(script) as server:
        yield server


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, engine: ScriptedEngine, collector: Collector
) -> Iterator[Gateway]:
    toml = remote("m", engine) + f'[traces]\nendpoint = "{collector.url}"\nsample = 0\n'
    with ready_gateway(tmp_path_factory.mktemp("traced"), toml) as server:
        yield server


def ask(front: Gateway, trace_id: str, flags: str) -> None:
    reply = front.request(
        "POST",
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "the prompt"}], "stream": True},
        {"traceparent": f"00-{trace_id}-{CALLER}-{flags}", "tracestate": "vendor=1"},
    )
    assert reply.status == 200, reply.body


def traced(front: Gateway, collector: Collector, trace_id: str) -> list[Span]:
    ask(front, trace_id, "01")
    found: list[Span] = wait_until(lambda: collector.trace(trace_id), "the spans")
    return found


def test_a_client_s_trace_goes_on_to_the_engine_and_to_the_collector(
    front: Gateway, collector: Collector, engine: ScriptedEngine
) -> None:
    spans = traced(front, collector, TRACE_ID)

    root = next(span for span in spans if span.kind == Span.SPAN_KIND_SERVER)
    attempts = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert root.parent_span_id.hex() == CALLER
    assert [attributes(one)["penstock.attempt"] for one in attempts] == [1, 2]
    assert [attributes(one).get("error.type", "") for one in attempts] == ["500", ""]
    assert {one.parent_span_id for one in attempts} == {root.span_id}
    told = [parse_traceparent(re.findall(rb"traceparent: (\S+)", head)[0]) for head, _ in engine.requests]
    assert [f"{parent.span_id:016x}" for parent in told if parent] == [one.span_id.hex() for one in attempts]
    assert [head.count(b"tracestate: vendor=1") for head, _ in engine.requests] == [1, 1]
    assert attributes(root)["gen_ai.usage.output_tokens"] == 2
    assert {span.name for span in spans} - {"receive", "queue"} == {"chat m", "prefill", "decode"}
    assert b"the prompt" not in b"".join(span.SerializeToString() for span in spans)


def test_what_a_client_does_not_trace_is_not_traced_and_says_so_to_the_engine(
    front: Gateway, collector: Collector, engine: ScriptedEngine
) -> None:
    unsampled, sampled = "a" * 32, "b" * 32
    ask(front, unsampled, "00")
    traced(front, collector, sampled)  # which is sent later

    assert collector.trace(unsampled) == []
    told = [re.findall(rb"traceparent: 00-(\w+)-\w+-(\w+)\r", head)[0] for head, _ in engine.requests]
    assert (unsampled.encode(), b"00") in told


def test_its_metrics_tell_how_many_spans_were_sent(front: Gateway, collector: Collector) -> None:
    traced(front, collector, "c" * 32)

    def sent() -> bool:
        page = front.admin("/metrics").body.decode()
        found = re.search(r"^penstock_traces_spans_sent_total (\S+)$", page, re.MULTILINE)
        return found is not None and float(found[1]) >= len(collector.spans)

    wait_until(sent, "the count of spans")


def test_a_gateway_without_its_collector_serves_and_says_so(tmp_path: Path) -> None:
    toml = '[traces]\nendpoint = "http://127.0.0.1:9"\nsample = 1\ntimeout = "100ms"\n'
    with (
        sim_engine(tmp_path, "--model", "m") as sim,
        ready_gateway(tmp_path, remote("m", sim) + toml) as front,
    ):
        assert front.ask("hello", "m").status == 200
        wait_until(lambda: "traces can't be sent" in front.log.read_text(), "a line about the collector")

        assert front.ask("hello", "m").status == 200
        assert front.stop() == 0
