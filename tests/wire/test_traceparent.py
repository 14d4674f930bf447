"""The `traceparent` header: what is written is read again, and what is no such header is passed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.traceparent import Parent, parse_traceparent, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = Parent(int(TRACE, 16), int(SPAN, 16), sampled=True)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read_again(trace_id: int, span_id: int, sampled: bool) -> None:
    value = traceparent(trace_id, span_id, sampled=sampled)

    assert len(value) == 55
    assert parse_traceparent(value) == Parent(trace_id, span_id, sampled)


@given(st.binary(max_size=600))
def test_anything_else_is_read_as_something_or_nothing(value: bytes) -> None:
    found = parse_traceparent(value)

    assert found is None or traceparent(found.trace_id, found.span_id, sampled=found.sampled)[3:52] in value


@pytest.mark.parametrize(
    "value", [f"00-{TRACE}-{SPAN}-01", f" 00-{TRACE}-{SPAN}-03 ", f"01-{TRACE}-{SPAN}-01-of-the-future"]
)
def test_a_header_that_is_well_formed_counts(value: str) -> None:
    assert parse_traceparent(value.encode()) == PARENT


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 600,
    ],
)
def test_one_that_is_not_is_as_if_there_were_none(value: str) -> None:
    assert parse_traceparent(value.encode()) is None
