"""Each measure is what its definition says, also where a chunk is not a token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.analysis.measures import BY_NAME, MEASURES, first_chunk_tokens, gaps, tokens
from penstock.bench.sample import Cause, Sample
from tests.bench.answers import answer, failure


def value(name: str, sample: Sample) -> float | None:
    of = BY_NAME[name].of
    assert of is not None
    return of(sample)


def test_times_count_from_the_scheduled_send_and_beside_it_from_the_actual_one() -> None:
    sample = answer(at_s=1.0, sent_s=1.05, tail_s=0.3)

    assert value("ttft", sample) == pytest.approx(0.2)
    assert value("ttft_from_sent", sample) == pytest.approx(0.15)
    assert value("e2e", sample) == pytest.approx(0.5)
    assert value("e2e_from_sent", sample) == pytest.approx(0.45)
    assert value("tail", sample) == pytest.approx(0.3)
    assert value("send_late", sample) == pytest.approx(0.05)


def test_the_time_to_connect_is_not_the_clients_lateness() -> None:
    sample = answer(sent_s=0.05, connect_s=0.04)

    assert value("send_late", sample) == pytest.approx(0.01)
    assert value("connect", sample) == 0.04


def test_reasoning_comes_before_the_first_answer() -> None:
    sample = answer(first_answer_s=0.36)

    assert (value("ttft", sample), value("first_answer", sample)) == (0.2, 0.36)


def test_four_tokens_in_a_chunk_are_five_milliseconds_each() -> None:
    sample = answer(tokens=16, per_chunk=4)

    assert value("decode", sample) == pytest.approx(0.005)
    assert value("itl_request", sample) == pytest.approx(0.02)
    assert value("tpot", sample) == pytest.approx(0.06 / 15)


def test_a_first_chunk_of_another_size_is_counted_as_the_server_told_it() -> None:
    sample = answer(tokens=9, per_chunk=3, chunk_tokens=[1, 4, 4])

    assert first_chunk_tokens(sample) == 1
    assert value("decode", sample) == pytest.approx(0.04 / 8)


def test_one_token_has_no_time_between_tokens() -> None:
    sample = answer(tokens=1)

    assert [value(name, sample) for name in ("tpot", "decode", "itl_request", "gap_max", "speed")] == [
        None
    ] * 5
    assert value("e2e", sample) == pytest.approx(0.2)


def test_all_tokens_in_one_chunk_have_no_decode_time() -> None:
    sample = answer(tokens=8, per_chunk=8)

    assert value("decode", sample) is None
    assert value("tpot", sample) == 0.0
    assert value("speed", sample) is None


def test_an_answer_in_one_piece_ends_when_it_is_done() -> None:
    sample = answer(first_token_s=None, last_token_s=None, first_answer_s=None, chunk_s=[])

    assert value("ttft", sample) is None
    assert value("e2e", sample) == pytest.approx(0.5)


def test_tokens_are_counted_by_usage_else_by_chunks() -> None:
    sample = answer(tokens=8, per_chunk=4)
    unknown = answer(tokens=8, per_chunk=4, completion_tokens=None)

    assert tokens(sample) == 8
    assert tokens(unknown) == 2
    assert tokens(answer(tokens=8, per_chunk=4, completion_tokens=None, chunk_tokens=[4, 4])) == 8
    assert tokens(failure(cause=Cause.CONNECT)) is None
    assert first_chunk_tokens(failure()) is None


@given(st.integers(2, 200), st.integers(1, 8), st.floats(0.001, 1.0))
def test_time_per_token_is_right_whatever_a_chunk_holds(chunks: int, per_chunk: int, gap_s: float) -> None:
    sample = answer(tokens=chunks * per_chunk, per_chunk=per_chunk, gap_s=gap_s)

    assert value("decode", sample) == pytest.approx(gap_s / per_chunk)
    assert sum(gaps(sample)) == pytest.approx(gap_s * (chunks - 1))
    assert value("gap_max", sample) == pytest.approx(gap_s)


def test_every_measure_says_what_it_is() -> None:
    assert [measure.name for measure in MEASURES if not measure.definition.endswith(".")] == []
    assert {measure.unit for measure in MEASURES} == {"s", "tokens", "tokens/s"}
    assert [measure.name for measure in MEASURES if measure.of is None] == ["itl"]
