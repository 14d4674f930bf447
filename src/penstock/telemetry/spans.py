"""The spans of one request, made from its record: the request, its stages, and each attempt.

Names follow OpenTelemetry's conventions for HTTP servers and for generative AI (gen_ai.*, of which all are still
marked "Development"); what they have no name for begins with `penstock.`. Tokens are told once, on the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from penstock import __version__
from penstock.core.record import Attempt, Outcome, RequestRecord, Trace

PROVIDER = "penstock"
PREFILL = "prefill"
DECODE = "decode"
_SCOPE = InstrumentationScope("penstock", __version__)
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/generate": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


# Shorter waits before the engine have no span: most are, and each span costs as much as three log lines.
STAGE_MIN_S = 0.0005

# Numbers of the spans below a request's own; attempts have the first ones.
_STAGE = 1 << 16
_ATTEMPT_STAGE = 1 << 17


def spans_of(record: RequestRecord, resource: Resource) -> list[ReadableSpan]:
    """The spans of a record; none where it is not sampled, or has not ended.

    Args:
        resource: who they come from.
    """
    trace = record.trace
    if trace is None or not trace.sampled or record.ended_s is None:
        return []
    span = partial(_span, record, trace, resource)
    spans = [
        span(
            _name(record),
            trace.span_id,
            trace.parent_id,
            (record.arrived_s, record.ended_s),
            kind=SpanKind.SERVER,
            attributes=_attributes(record),
            status=_status(record),
        )
    ]
    for number, (name, times) in enumerate(_stages(record)):
        if times[1] - times[0] >= STAGE_MIN_S:
            spans.append(span(name, trace.span_below(_STAGE + number), trace.span_id, times))
    for number, attempt in enumerate(record.attempts, 1):
        attempt_id, ended_s = trace.span_below(number), attempt.ended_s or record.ended_s
        spans.append(
            span(
                _name(record),
                attempt_id,
                trace.span_id,
                (attempt.started_s, ended_s),
                kind=SpanKind.CLIENT,
                attributes=_attempt_attributes(record, number, attempt),
                status=Status(StatusCode.ERROR, attempt.failure) if attempt.failure else _UNSET,
            )
        )
        for name, times in _attempt_stages(record, attempt, ended_s):
            stage = _ATTEMPT_STAGE + 2 * number + (name == DECODE)
            spans.append(span(name, trace.span_below(stage), attempt_id, times))
    return spans


def _span(
    record: RequestRecord,
    trace: Trace,
    resource: Resource,
    name: str,
    span_id: int,
    parent_id: int,
    times: tuple[float, float],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: dict[str, AttributeValue] | None = None,
    status: Status = _UNSET,
) -> ReadableSpan:
    parent = SpanContext(trace.trace_id, parent_id, is_remote=parent_id == trace.parent_id)
    start_ns, end_ns = (
        round((record.started_at + at_s - record.arrived_s) * 1e9) for at_s in (times[0], max(times))
    )
    return ReadableSpan(
        name,
        SpanContext(trace.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED),
        parent if parent_id else None,
        resource,
        attributes or {},
        kind=kind,
        status=status,
        start_time=start_ns,
        end_time=end_ns,
        instrumentation_scope=_SCOPE,
    )


def _name(record: RequestRecord) -> str:
    return f"{_operation(record)} {record.model}".rstrip()


def _operation(record: RequestRecord) -> str:
    return _OPERATIONS.get(record.route, "other")


def _status(record: RequestRecord) -> Status:
    """A client's own mistake is no error of a server, says the convention."""
    if record.status >= 500 or record.outcome is Outcome.INTERRUPTED:
        return Status(StatusCode.ERROR, record.error_code)
    return _UNSET


def _attributes(record: RequestRecord) -> dict[str, AttributeValue]:
    told: dict[str, AttributeValue | None] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "http.request.body.size": record.request_bytes,
        "http.response.body.size": record.response_bytes,
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.stream,
        "gen_ai.usage.input_tokens": record.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": record.usage.completion_tokens,
        "gen_ai.response.time_to_first_chunk": record.ttft_s,
        "error.type": record.error_code or None,
        "penstock.request_id": record.request_id,
        "penstock.tenant": record.tenant,
        "penstock.key_id": record.key_id,
        "penstock.priority": record.priority or None,
        "penstock.outcome": record.told_outcome.value,
        "penstock.fault": record.fault or None,
        "penstock.replica": record.replica or None,
        "penstock.attempts": len(record.attempts),
        "penstock.continuations": record.continuations or None,
        "penstock.hedged": record.hedged or None,
        "penstock.replayed": record.replayed or None,
        "penstock.overhead": record.overhead_s,
        "penstock.time_per_output_token": record.tpot_s,
        "penstock.cost": record.cost_usd or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _attempt_attributes(record: RequestRecord, number: int, attempt: Attempt) -> dict[str, AttributeValue]:
    error_status = attempt.status if attempt.status and attempt.status >= 400 else None
    told: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.model,
        "http.response.status_code": attempt.status,
        "error.type": str(error_status or attempt.failure) or None,
        "penstock.replica": attempt.replica,
        "penstock.attempt": number,
        "penstock.routing.reason": attempt.reason,
        "penstock.reused_connection": attempt.reused_connection,
    }
    return {name: value for name, value in told.items() if value is not None}


def _stages(record: RequestRecord) -> Iterator[tuple[str, tuple[float, float]]]:
    if record.body_read_s is not None:
        yield "receive", (record.arrived_s, record.body_read_s)
    if record.lined_up_s is not None and record.queue_s is not None:
        yield "queue", (record.lined_up_s, record.lined_up_s + record.queue_s)


def _attempt_stages(
    record: RequestRecord, attempt: Attempt, ended_s: float
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Prefill and decode, each told with the attempt in which it came to its end."""
    first_s, last_s = record.first_token_s, record.last_token_s
    if first_s is None or last_s is None:
        return
    sent_s = attempt.connected_s or attempt.started_s
    if sent_s <= first_s <= ended_s:
        yield PREFILL, (sent_s, first_s)
    if attempt.started_s <= last_s <= ended_s:
        yield DECODE, (max(first_s, attempt.started_s), last_s)
