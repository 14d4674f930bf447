"""A request's trace through the gateway into a real vLLM, whose own span joins it; skipped without one.

    PENSTOCK_VLLM_VENV=/path/to/venv pytest tests/e2e/test_vllm_traces.py -s

The tree of spans is printed, as docs/traces.md shows it.
"""

from __future__ import annotations

import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.conftest import DEMO
from tests.e2e.observed import NEEDS_VLLM, Observed
from tests.e2e.processes import wait_until
from tests.e2e.test_continuation import CHAT, events_of
from tests.otlp import Collector, attributes

pytestmark = [NEEDS_VLLM, pytest.mark.timeout(400)]

CALLER = "00f067aa0ba902b7"
TOKENS = 40
VLLM_SPAN = "llm_request"


def ask(observed: Observed, trace_id: str, flags: str, *, stream: bool = True) -> None:
    body = {
        "model": DEMO,
        "messages": [{"role": "user", "content": "Count from one to one hundred."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-{flags}"}
    if stream:
        assert events_of(observed.up, CHAT, {**body, "stream": True}, **headers)[-1] == "[DONE]"
    else:
        assert observed.up.request("POST", CHAT, body, headers).status == 200


def traced(observed: Observed, trace_id: str, *, stream: bool = True) -> list[Span]:
    """The spans of a request that its client traces, once both the gateway's and vLLM's are there."""
    ask(observed, trace_id, "01", stream=stream)

    def whole() -> list[Span] | None:
        spans = observed.collector.trace(trace_id)
        senders = {observed.collector.services[span.span_id] for span in spans}
        return spans if {"penstock-gateway", "vllm"} <= senders else None

    return wait_until(whole, "the spans of the gateway and of vLLM")


def tree(spans: list[Span], collector: Collector, parent: bytes, depth: int = 0) -> list[str]:
    """The spans below one, a line each: name, kind, who sent it, begin and length in ms."""
    first_ns = min(span.start_time_unix_nano for span in spans)
    lines: list[str] = []
    for span in (one for one in spans if one.parent_span_id == parent):
        name = "  " * depth + span.name
        kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        begin_ms = (span.start_time_unix_nano - first_ns) / 1e6
        took_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        sender = collector.services[span.span_id]
        lines.append(f"{name:28} {kind:8} {sender:16} {begin_ms:8.1f} {took_ms:8.1f}")
        lines += tree(spans, collector, span.span_id, depth + 1)
    return lines


@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_s_own_span_is_below_the_attempt_that_it_served(
    observed_vllm: Observed, stream: bool
) -> None:
    spans = traced(observed_vllm, ("5a" if stream else "5b") * 16, stream=stream)

    (root,) = (span for span in spans if span.name != VLLM_SPAN and span.kind == Span.SPAN_KIND_SERVER)
    (attempt,) = (span for span in spans if span.kind == Span.SPAN_KIND_CLIENT)
    (own,) = (span for span in spans if span.name == VLLM_SPAN)
    lines = tree(spans, observed_vllm.collector, bytes.fromhex(CALLER))
    sys.stdout.write("\n" + "\n".join(lines) + f"\n{attributes(own)}\n")
    assert observed_vllm.collector.services[own.span_id] == "vllm"
    assert len(lines) == len(spans)  # all of them hang below the client's
    assert root.parent_span_id.hex() == CALLER
    assert attempt.parent_span_id == root.span_id
    assert own.parent_span_id == attempt.span_id
    assert attempt.start_time_unix_nano <= own.start_time_unix_nano
    assert attributes(own)["gen_ai.usage.completion_tokens"] == TOKENS
    assert attributes(root)["gen_ai.usage.output_tokens"] == TOKENS
    assert attributes(root)["gen_ai.usage.input_tokens"] == attributes(own)["gen_ai.usage.prompt_tokens"]


def test_what_is_not_traced_leaves_no_span_of_the_engine_either(observed_vllm: Observed) -> None:
    unsampled, later = "6a" * 16, "6b" * 16
    ask(observed_vllm, unsampled, "00")
    events_of(
        observed_vllm.up,
        CHAT,
        {"model": DEMO, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "stream": True},
    )  # a client without a trace of its own, of which `sample` decides
    traced(observed_vllm, later)  # vLLM sends in order

    collector = observed_vllm.collector
    own = [span for span in collector.spans if collector.services[span.span_id] == "vllm"]
    assert collector.trace(unsampled) == []
    assert {span.name for span in own} == {VLLM_SPAN}  # neither its start nor a canary has left one
    assert {span.trace_id.hex()[:2] for span in own} <= {"5a", "5b", "6b"}
