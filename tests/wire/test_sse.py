"""Events are cut off a stream whole, whatever the reads were, and not a byte is made up or lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.wire import sse

LINE_ENDS = st.sampled_from([b"\n", b"\r\n"])
LINES = st.sampled_from(
    [b'data: {"a":1}', b"data:x", b"data: [DONE]", b": comment", b"event: ping", b"data: a\rb"]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events of one to three lines with mixed line ends, some empty lines too many, perhaps a cut end."""
    parts = []
    for lines in draw(st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5)):
        parts += [part for line in lines for part in (line, draw(LINE_ENDS))]
        parts += draw(st.lists(LINE_ENDS, min_size=1, max_size=3))
    return b"".join(
        [*parts, draw(st.sampled_from([b"", b"data: unfin", b"data: x\n", b"\n", b"\r\n", b"\r"]))]
    )


def fed(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """What comes out of a framer for each of `pieces`, and what is left in it."""
    framer = sse.EventFramer()
    return [framer.feed(piece) for piece in pieces], framer.rest


@given(streams(), st.data())
def test_any_split_of_a_stream_gives_the_same_bytes_in_order(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    out, rest = fed(pieces)

    joined = b"".join(out)
    assert stream.startswith(joined)
    assert stream[len(joined) :].lstrip(b"\r\n") == rest


@given(streams())
@example(b"data: [DONE]\n\n\n")
@example(b"data: a\r\n\n\r\n")
def test_a_stream_fed_byte_by_byte_leaves_the_same_rest_as_one_fed_whole(stream: bytes) -> None:
    _, rest = fed([stream])
    _, rest_of_bytes = fed([stream[i : i + 1] for i in range(len(stream))])

    assert rest_of_bytes == rest


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\n\n", b"\n\r\n"])
def test_an_event_comes_out_with_its_last_byte_and_not_before(end: bytes) -> None:
    event = b'data: {"a":1}' + end

    for cut in range(1, len(event)):
        assert fed([event[:cut], event[cut:]])[0] == [b"", event]


@given(streams())
def test_what_is_cut_off_ends_with_an_empty_line(stream: bytes) -> None:
    for events in fed([stream[i : i + 3] for i in range(0, len(stream), 3)])[0]:
        assert not events or events.endswith((b"\n\n", b"\n\r\n"))


@given(streams())
@example(b"data: a\n\n\n")
@example(b"data: a\n\r\n\n")
def test_splitting_loses_no_byte_and_counts_as_counted(stream: bytes) -> None:
    events = fed([stream])[0][0]

    parts = sse.split_events(events)

    assert b"".join(parts) == events
    assert len(parts) == sse.count_events(events)


def test_splitting_nothing_gives_nothing() -> None:
    assert sse.split_events(b"") == []
    assert sse.count_events(b"") == 0


def test_a_stream_that_ends_in_one_empty_line_too_many_is_not_cut() -> None:
    _, rest = fed([b"data: [DONE]\n\n", b"\n"])

    assert rest == b""


def test_an_event_without_an_end_is_refused_at_the_limit() -> None:
    framer = sse.EventFramer()
    framer.feed(b"x" * sse.EVENT_BYTES_MAX)

    with pytest.raises(sse.EventTooLargeError, match="larger than 1048576 bytes"):
        framer.feed(b"x")


def test_many_events_in_one_read_may_be_larger_than_one_event() -> None:
    events = sse.event(b"x" * 1000) * 2000

    assert fed([events[:-1], b"\n"])[0] == [events[: -1003 - 5], events[-1008:]]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"event: ping\ndata: x\nid: 7\n\n", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\r\ndata: b\r\n\r\n", b"a\nb"),
        (b"data:\n\n", b""),
        (b": data: x\n\n", b""),
        (b"\ndata: x\n\n", b"x"),
    ],
)
def test_the_data_of_an_event_is_read_as_the_standard_says(event: bytes, data: bytes) -> None:
    assert sse.event_data(event) == data


@given(st.binary(max_size=50).filter(lambda data: b"\n" not in data and not data.endswith(b"\r")))
def test_an_event_that_is_made_is_read_again(data: bytes) -> None:
    assert sse.event_data(sse.event(data)) == data


def test_the_end_mark_and_the_comment_are_whole_events() -> None:
    assert sse.split_events(sse.DONE + sse.COMMENT) == [sse.DONE, sse.COMMENT]
    assert sse.event_data(sse.DONE) == b"[DONE]"
    assert sse.event_data(sse.COMMENT) == b""
