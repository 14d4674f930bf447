"""Which requests are traced, and what engines are told of it."""

from __future__ import annotations

import random

import pytest

from penstock.core.record import RequestRecord, Trace
from penstock.engines.exchange import Headers
from penstock.gateway.tracing import Tracing, attempt_header
from penstock.wire.traceparent import Parent, parse_traceparent, traceparent

SAMPLED = (b"traceparent", traceparent(7, 5, sampled=True))
UNSAMPLED = (b"traceparent", traceparent(2**64 - 1, 5, sampled=False))
STATE = (b"tracestate", b"vendor=1")


def record() -> RequestRecord:
    return RequestRecord("r", "POST", "/v1/completions", arrived_s=0.0, started_at=0.0)


def begun(share: float, onward: Headers, *, follow_clients: bool = True) -> tuple[Trace, Headers]:
    one = record()
    headers = Tracing(share, random.Random(1).getrandbits, follow_clients=follow_clients).begin(one, onward)
    assert one.trace is not None
    return one.trace, headers


def test_a_trace_of_a_client_goes_on() -> None:
    trace, onward = begun(0.0, [(b"accept", b"*/*"), SAMPLED, STATE])

    assert (trace.trace_id, trace.parent_id, trace.sampled) == (7, 5, True)
    assert trace.span_id not in (0, 5)
    assert onward == [(b"accept", b"*/*"), STATE]


@pytest.mark.parametrize(("header", "share", "sampled"), [(SAMPLED, 0.0, False), (UNSAMPLED, 1.0, True)])
def test_a_client_decides_only_where_it_may(header: tuple[bytes, bytes], share: float, sampled: bool) -> None:
    assert begun(share, [header])[0].sampled is not sampled
    assert begun(share, [header], follow_clients=False)[0].sampled is sampled


def test_without_a_client_s_trace_there_is_a_new_one() -> None:
    trace, onward = begun(1.0, [(b"traceparent", b"nonsense"), STATE])

    assert onward == []
    assert trace.parent_id == 0
    assert trace.trace_id > 2**64
    assert trace.sampled


def test_a_share_is_traced() -> None:
    tracing, counted = Tracing(0.25, random.Random(2).getrandbits, follow_clients=True), 0
    for _ in range(4000):
        one = record()
        tracing.begin(one, [])
        counted += one.trace is not None and one.trace.sampled

    assert 900 < counted < 1100


def test_each_attempt_has_a_span_of_its_own_in_the_trace() -> None:
    trace, _ = begun(0.0, [SAMPLED])
    told = [parse_traceparent(attempt_header(trace, number)[1]) for number in (1, 2)]

    assert told == [
        Parent(7, trace.span_below(1), sampled=True),
        Parent(7, trace.span_below(2), sampled=True),
    ]
    assert len({trace.span_id, trace.span_below(1), trace.span_below(2)}) == 3
