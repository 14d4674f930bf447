"""A request is good when it met every limit; what can't be told is not guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.analysis.slo import LIMITS, Judged, SloError, judged, meets, parse_slo
from penstock.bench.sample import Cause
from tests.bench.answers import answer, failure

SLO = parse_slo("ttft=500ms, tpot=50ms,e2e=5s")


def test_limits_are_read_from_text() -> None:
    assert SLO.limits_s == {"ttft": 0.5, "tpot": 0.05, "e2e": 5.0}
    assert SLO.text == "ttft=500ms,tpot=50ms,e2e=5s"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft", "'ttft' is no name=duration"),
        ("", "'' is no name=duration"),
        ("tttf=1s", "slo.tttf: no such limit; did you mean ttft"),
        ("zzz=1s", "slo.zzz: no such limit$"),
        ("ttft=1s,ttft=2s", "slo.ttft: given twice"),
        ("ttft=fast", "slo.ttft: 'fast': expected a duration"),
        ("ttft=0ms", "slo.ttft: '0ms': must be above 0"),
    ],
)
def test_a_text_that_is_no_slo_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(SloError, match=says) as caught:
        parse_slo(text)

    assert caught.value.hint


def test_a_whole_answer_is_good_or_misses_limits_by_name() -> None:
    assert judged(SLO, answer()) == Judged(True)
    assert judged(SLO, answer(ttft_s=0.6, gap_s=0.06)) == Judged(False, ("ttft", "tpot"))


def test_what_failed_met_nothing() -> None:
    assert judged(SLO, failure(cause=Cause.RATE_LIMITED)) == Judged(False)
    assert meets(SLO, answer(cause=Cause.INCOMPLETE)) is False


def test_one_token_is_judged_by_ttft_and_e2e_alone() -> None:
    assert meets(SLO, answer(tokens=1)) is True
    assert meets(SLO, answer(tokens=1, ttft_s=0.6)) is False
    assert meets(parse_slo("decode=1ms,itl=1ms,gap=1ms"), answer(tokens=8, per_chunk=8)) is True


def test_what_was_not_measured_is_undetermined() -> None:
    whole = answer(first_token_s=None, last_token_s=None, chunk_s=[])

    assert meets(SLO, whole) is None
    assert meets(parse_slo("e2e=100ms"), whole) is False
    assert meets(parse_slo("e2e=1s"), whole) is True


def test_an_unfinished_request_missed_only_what_it_had_passed() -> None:
    waiting = failure(cause=Cause.CUT_OFF, ended_s=0.4)

    assert meets(SLO, waiting) is None
    assert judged(SLO, failure(cause=Cause.CANCELLED, ended_s=0.7)) == Judged(False, ("ttft",))
    assert judged(SLO, answer(cause=Cause.CUT_OFF, ended_s=6.0)) == Judged(False, ("e2e",))
    assert judged(SLO, answer(cause=Cause.CUT_OFF, gap_s=0.3, ended_s=4.9)) == Judged(None)
    assert meets(parse_slo("gap=10ms"), answer(cause=Cause.CUT_OFF)) is False
    assert meets(parse_slo("gap=1s"), answer(cause=Cause.CUT_OFF)) is None
    assert meets(SLO, failure(cause=Cause.CUT_OFF, ended_s=None)) is None


@given(st.sampled_from(sorted(LIMITS)), st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0.001, 1))
def test_a_wider_limit_is_never_harder(name: str, first_s: float, second_s: float, gap_s: float) -> None:
    sample = answer(ttft_s=0.3, gap_s=gap_s)
    narrow, wide = sorted((first_s, second_s))

    assert meets(parse_slo(f"{name}={narrow:f}"), sample) <= meets(parse_slo(f"{name}={wide:f}"), sample)  # type: ignore[operator]
