"""What is noted of an answer: times of reads, tokens, and what is wrong with it."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.load.stream import INFLATED_BYTES_MAX, WHOLE_BYTES_MAX, Answer
from penstock.bench.sample import Cause, Sample
from penstock.wire.sse import EVENT_BYTES_MAX
from tests.bench.under_load import DONE, event, said, usage

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]


def read(*pieces: bytes, status: int = 200, headers: Any = STREAM, ends: bool = True, **asked: Any) -> Sample:
    """What is noted of pieces that come at 1 s, 2 s and so on; the end is half a second later."""
    answer = Answer(**asked)
    answer.begin(status, headers)
    for number, piece in enumerate(pieces, start=1):
        answer.feed(piece, float(number))
    if ends:
        answer.end(len(pieces) + 0.5)
    sample = Sample(index=0, kind="", stage=0, scheduled_s=0.0)
    answer.fill(sample)
    return sample


ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])


def test_the_role_chunk_is_the_first_byte_but_no_token() -> None:
    sample = read(ROLE, said("a"), said("b", "stop"), usage(2) + DONE)

    assert (sample.first_byte_s, sample.first_token_s, sample.last_token_s) == (1, 2, 3)
    assert (sample.done_s, sample.chunk_s) == (4, [2, 3])
    assert (sample.prompt_tokens, sample.completion_tokens, sample.tokens_from) == (3, 2, "usage")
    assert sample.cause is Cause.NONE


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_the_first_token_and_not_the_first_answer(name: str) -> None:
    thought = event(choices=[{"delta": {name: "hm"}}])
    counts = usage(3, completion_tokens_details={"reasoning_tokens": 2})

    sample = read(thought, thought, said("a", "stop"), counts, DONE, keep_text=True)

    assert (sample.first_token_s, sample.first_answer_s) == (1, 3)
    assert sample.reasoning_tokens == 2
    assert sample.answer == "hmhma"


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"function": {"arguments": "{"}}]},
        {"refusal": "no"},
        {"content": "x", "role": "assistant"},
    ],
)
def test_tool_calls_and_refusals_are_tokens_of_the_answer(delta: dict[str, Any]) -> None:
    sample = read(ROLE, event(choices=[{"delta": delta}]), DONE)

    assert sample.first_answer_s == 2


def test_content_in_parts_is_read_as_thought_and_answer() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    pieces = [
        event(choices=[{"delta": {"content": parts}, "finish_reason": ""}])
        for parts in ([thought], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], [], ["odd"])
    ]

    sample = read(*pieces, DONE, keep_text=True)

    assert (sample.chunk_s, sample.first_answer_s, sample.answer) == ([1, 2], 2, "hmab")


def test_an_empty_finish_reason_is_no_ending() -> None:
    assert read(said("a", ""), said("b", "")).cause is Cause.INCOMPLETE


@pytest.mark.parametrize("delta", [{}, {"content": None}, {"content": ""}, {"tool_calls": []}, None])
def test_a_chunk_without_content_is_no_token(delta: Any) -> None:
    sample = read(event(choices=[{"delta": delta}]), said("a", "stop"), DONE)

    assert sample.chunk_s == [2]


def test_plain_completions_bring_text() -> None:
    sample = read(
        event(choices=[{"text": "a"}]), event(choices=[{"text": "b", "finish_reason": "length"}]), DONE
    )

    assert sample.chunk_s == [1, 2]


def test_chunks_are_counted_where_no_usage_is_told_and_that_is_said() -> None:
    sample = read(said("a b"), said("c d", "stop"), DONE)

    assert (sample.completion_tokens, sample.tokens_from) == (2, "chunks")


def test_a_running_usage_tells_the_tokens_of_each_chunk() -> None:
    def counted(text: str, so_far: int) -> bytes:
        return said(text, usage={"prompt_tokens": 3, "completion_tokens": so_far})

    sample = read(counted("", 0), counted("a", 1), counted("b c d", 4), counted("", 4), DONE)

    assert sample.chunk_tokens == [1, 3]
    assert (sample.chunk_s, sample.completion_tokens) == ([2, 3], 4)


def test_tokens_of_chunks_that_are_told_for_some_only_are_not_told() -> None:
    sample = read(said("a"), said("b", usage={"prompt_tokens": 3, "completion_tokens": 2}), DONE)

    assert sample.chunk_tokens == []


def test_cached_tokens_are_read_from_usage() -> None:
    assert read(said("a"), usage(1, prompt_tokens_details={"cached_tokens": 2}), DONE).cached_tokens == 2


@given(st.lists(st.integers(1, 60), max_size=40), st.booleans())
def test_an_answer_reads_the_same_however_it_is_cut(cuts: list[int], crlf: bool) -> None:
    data = b": hello\n\n" + ROLE + said("a") + said("b\u00fc\r", "stop") + usage(7) + DONE
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    pieces.append(data[at:])

    sample = read(*filter(None, pieces), keep_text=True)

    assert sample.cause is Cause.NONE
    assert (len(sample.chunk_s), sample.completion_tokens, sample.answer) == (2, 7, "ab\u00fc\r")
    assert sample.done_s is not None


def test_several_data_lines_make_one_event() -> None:
    sample = read(b'event: x\ndata: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n', DONE)

    assert sample.chunk_s == [1]


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_compressed_stream_is_read_all_the_same(encoding: bytes) -> None:
    data = said("a") + said("b", "stop") + usage(2) + DONE
    packed = gzip.compress(data) if encoding == b"gzip" else zlib.compress(data)

    sample = read(packed, headers=[*STREAM, (b"content-encoding", encoding)])

    assert (sample.cause, sample.completion_tokens) == (Cause.NONE, 2)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [(b"br", b"x"), (b"gzip", b"no gzip"), (b"gzip", gzip.compress(bytes(INFLATED_BYTES_MAX + 1), mtime=0))],
)
def test_compression_that_can_not_be_read_is_malformed(encoding: bytes, data: bytes) -> None:
    sample = read(data, headers=[*STREAM, (b"content-encoding", encoding)])

    assert sample.cause is Cause.MALFORMED


@pytest.mark.parametrize(
    ("pieces", "cause", "detail"),
    [
        ((said("a"),), Cause.INCOMPLETE, "without"),
        ((said("a"), b'data: {"cho'), Cause.INCOMPLETE, "amid"),
        ((), Cause.INCOMPLETE, "empty"),
        ((said("a"), event(error={"message": "out of memory"})), Cause.ERROR_EVENT, "out of memory"),
        ((b'error: {"code":500,"message":"slot lost"}\n\n',), Cause.ERROR_EVENT, "slot lost"),
        ((event(object="error", message="gone"),), Cause.ERROR_EVENT, "gone"),
        ((said("a", "abort"), DONE), Cause.ERROR_EVENT, "abort"),
        ((b"data: {nonsense\n\n",), Cause.MALFORMED, "nonsense"),
        ((b'data: {"choices":5}\n\n',), Cause.MALFORMED, "choices"),
        ((b"<html>\n\n",), Cause.MALFORMED, "HTML"),
        ((b"data: " + b"x" * EVENT_BYTES_MAX,), Cause.MALFORMED, "larger"),
    ],
)
def test_a_stream_that_goes_wrong_has_its_cause(pieces: tuple[bytes, ...], cause: Cause, detail: str) -> None:
    sample = read(*pieces)

    assert sample.cause is cause
    assert detail in sample.detail


def test_a_finish_reason_ends_a_stream_as_well_as_the_end_mark() -> None:
    sample = read(said("a"), said("b", "stop"))

    assert (sample.cause, sample.done_s) == (Cause.NONE, None)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (429, Cause.RATE_LIMITED),
        (401, Cause.CLIENT_ERROR),
        (404, Cause.CLIENT_ERROR),
        (503, Cause.SERVER_ERROR),
    ],
)
def test_a_refusal_has_its_cause_and_the_server_s_words(status: int, cause: Cause) -> None:
    sample = read(b'{"error":{"mess', b'age":"no such model"}}', status=status, headers=JSON)

    assert (sample.cause, sample.detail, sample.status) == (cause, "no such model", status)


def test_an_error_page_is_told_by_its_title() -> None:
    page = b"<!doctype html><html><head><title>502 Bad Gateway</title></head></html>"

    assert read(page, status=502, headers=[]).detail == "an HTML page: 502 Bad Gateway"
    assert read(page, headers=[(b"content-type", b"text/html")]).cause is Cause.MALFORMED


def test_a_redirect_says_where_to() -> None:
    sample = read(status=307, headers=[(b"location", b"https://x/")])

    assert (sample.cause, sample.detail) == (Cause.MALFORMED, "307, on to https://x/")


WHOLE = (
    b'{"object":"chat.completion","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
)


def test_a_whole_answer_where_a_stream_was_asked_for_is_not_streamed() -> None:
    sample = read(WHOLE, headers=JSON)

    assert (sample.cause, sample.completion_tokens, sample.first_token_s) == (Cause.NOT_STREAMED, 1, None)


def test_a_whole_answer_that_was_asked_for_is_good() -> None:
    sample = read(WHOLE[:20], WHOLE[20:], headers=JSON, streamed=False, keep_text=True)

    assert (sample.cause, sample.done_s, sample.answer) == (Cause.NONE, 2.5, "hello")


@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b"[1]", b"{nonsense"])
def test_json_that_is_no_answer_is_malformed(body: bytes) -> None:
    assert read(body, headers=JSON).cause is Cause.MALFORMED


def test_a_whole_answer_is_bounded() -> None:
    sample = read(b'{"x":"' + b"x" * WHOLE_BYTES_MAX, headers=JSON)

    assert (sample.cause, "larger" in sample.detail) == (Cause.MALFORMED, True)


def test_a_stream_without_a_content_type_is_known_by_its_beginning() -> None:
    assert read(said("a", "stop"), DONE, headers=[]).chunk_s == [1]


def test_nothing_behind_the_end_mark_counts() -> None:
    sample = read(said("a", "stop") + DONE + said("b"), said("c"))

    assert (sample.chunk_s, sample.cause) == ([1], Cause.NONE)
