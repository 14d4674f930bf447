"""Which requests are traced, and what their engines are told of it; spans are made later, from the record."""

from __future__ import annotations

from collections.abc import Callable

from penstock.core.record import RequestRecord, Trace
from penstock.engines.exchange import Headers
from penstock.wire.traceparent import SPAN_ID_BITS, TRACE_ID_BITS, Parent, parse_traceparent, traceparent

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
# Trace ids are random in their lower half at least, and so all who sample by it agree.
_RANDOM_BITS = 64


class Tracing:
    """Begins traces.

    Args:
        share: of requests that are traced, 0 to 1.
        follow_clients: whether what a client says of its trace decides.
        random_bits: so many random bits.
    """

    def __init__(self, share: float, random_bits: Callable[[int], int], *, follow_clients: bool) -> None:
        self._below = round(share * 2**_RANDOM_BITS)
        self._follow_clients = follow_clients
        self._random_bits = random_bits

    def begin(self, record: RequestRecord, onward: Headers) -> Headers:
        """Gives the record its trace; returns the headers for engines, to which each attempt adds its `traceparent`."""
        parent: Parent | None = None
        for name, value in onward:
            if name == TRACEPARENT:
                parent = parse_traceparent(value)
                # a state without its trace means nothing, says W3C
                gone = (TRACEPARENT,) if parent else (TRACEPARENT, TRACESTATE)
                onward = [header for header in onward if header[0] not in gone]
                break
        trace_id = parent.trace_id if parent else self._new_id(TRACE_ID_BITS)
        sampled = trace_id % 2**_RANDOM_BITS < self._below
        if parent is not None and self._follow_clients:
            sampled = parent.sampled
        parent_id = parent.span_id if parent else 0
        record.trace = Trace(trace_id, self._new_id(SPAN_ID_BITS), parent_id, sampled)
        return onward

    def _new_id(self, bits: int) -> int:
        return self._random_bits(bits) or 1  # 0 is no id


def attempt_header(trace: Trace, number: int) -> tuple[bytes, bytes]:
    """What the engine of attempt `number`, from 1, is told."""
    return TRACEPARENT, traceparent(trace.trace_id, trace.span_below(number), sampled=trace.sampled)
