"""W3C Trace Context: the header that says which trace a request belongs to.

https://www.w3.org/TR/trace-context/, version 00; a later version is read as far as 00 goes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADER = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
TRACE_ID_BITS = 128
SPAN_ID_BITS = 64


@dataclass(frozen=True, slots=True)
class Parent:
    """Where a caller stands: its trace, its span, and whether it keeps the trace."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(value: bytes) -> Parent | None:
    """What a `traceparent` says; None for one that is not well-formed, which is as if there were none."""
    match = _HEADER.fullmatch(value.strip()) if len(value) <= 512 else None
    if match is None or match[1] == b"ff" or (match[1] == b"00" and len(match[0]) != 55):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED))


def traceparent(trace_id: int, span_id: int, *, sampled: bool) -> bytes:
    """The header's value."""
    return b"00-%032x-%016x-%02x" % (trace_id, span_id, sampled)
