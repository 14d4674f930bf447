"""A summary says what a run was, whatever happened in it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.analysis.slo import parse_slo
from penstock.bench.analysis.summary import Summary, schema, summarize
from penstock.bench.plan import Stage
from penstock.bench.sample import Cause, Sample
from tests.bench.answers import answer, failure

ALL_CAUSES = st.sampled_from(list(Cause))


class Counted:
    """What engines said of their prefix caches."""

    def __init__(self, hits: float | None, queries: float | None) -> None:
        self.prefix_hits, self.prefix_queries = hits, queries


def test_the_known_case_has_the_known_numbers() -> None:
    # 20 answers, four at a time, 500 ms each: 320 tokens in 2.5 s.
    samples = [answer(number, at_s=0.5 * (number // 4)) for number in range(20)]

    summary = summarize(samples, [Stage("concurrency 4", concurrency=4)])

    flow = summary.all.throughput
    assert flow.output_tokens == 320
    assert flow.output_tokens_per_s == pytest.approx(128.0)
    assert flow.completed_per_s == pytest.approx(8.0)
    assert flow.in_flight_mean == pytest.approx(4.0)
    assert flow.in_flight_max == 4
    assert summary.all.measures["ttft"].mean == pytest.approx(0.2)
    assert summary.all.measures["itl"].count == 300
    assert summary.duration_s == pytest.approx(2.5)


def test_few_answers_have_a_median_and_no_p99() -> None:
    summary = summarize(answer(number, at_s=number / 10) for number in range(100))

    ttft = summary.all.measures["ttft"]
    p50, p99 = ttft.at(50.0), ttft.at(99.0)
    assert p50 is not None
    assert p99 is not None
    assert p50.value == pytest.approx(0.2)
    assert (p99.value, p99.needs) == (None, 662)
    assert ttft.at(12.0) is None


def test_failures_are_in_no_latency_but_in_every_count() -> None:
    samples = [answer(number, at_s=number / 10) for number in range(30)]
    samples += [failure(30 + number, at_s=number / 10, cause=Cause.RATE_LIMITED) for number in range(10)]
    samples += [
        answer(40, cause=Cause.CANCELLED),
        answer(41, cause=Cause.CUT_OFF),
        answer(42, cause=Cause.INCOMPLETE),
    ]

    summary = summarize(samples, slo=parse_slo("ttft=1s"))

    counts = summary.all.counts
    assert (counts.requests, counts.completed, counts.failed) == (43, 30, 11)
    assert (counts.cancelled, counts.cut_off) == (1, 1)
    assert counts.by_cause == {"429": 10, "cancelled": 1, "cut_off": 1, "incomplete": 1}
    assert counts.error_share == pytest.approx(11 / 41)
    assert summary.all.measures["ttft"].count == 30
    goodput = summary.all.goodput
    assert goodput is not None
    assert (goodput.good, goodput.judged, goodput.undetermined) == (30, 41, 2)
    assert goodput.share == pytest.approx(30 / 41)
    assert summary.all.throughput.wasted_output_tokens == 48


def test_what_cut_off_answers_brought_counts_as_output_and_what_failed_does_not() -> None:
    samples = [answer(0), answer(1, cause=Cause.CUT_OFF), answer(2, cause=Cause.RESET)]

    flow = summarize(samples).all.throughput

    assert flow.output_tokens_per_s == pytest.approx(32 / 0.5)
    assert flow.all_output_tokens_per_s == pytest.approx(48 / 0.5)


def test_the_warm_up_is_counted_and_in_nothing_else() -> None:
    samples = [answer(0, ttft_s=9.0, stage=-1), *(answer(1 + n, at_s=10 + n / 10) for n in range(30))]

    summary = summarize(samples, [Stage("10/s", rate_per_s=10.0)])

    assert summary.warmup == 1
    assert summary.all.counts.requests == 30
    assert summary.all.measures["ttft"].most == pytest.approx(0.2)
    assert summary.all.window.begins_s == 10.0


def test_what_was_under_way_when_the_window_began_is_part_of_what_went_through_it() -> None:
    # Four places, answers of two seconds: two a second, for ten seconds, of which the first four are the warm-up.
    samples = [
        answer(
            place + 4 * turn,
            at_s=place / 2 + 2 * turn,
            ttft_s=0.1,
            gap_s=0.125,
            tail_s=0.02,
            stage=-1 if place / 2 + 2 * turn < 4 else 0,
        )
        for turn in range(6)
        for place in range(4)
    ]

    stages = [Stage("concurrency 4", 4.0, 10.0, concurrency=4)]
    whole = summarize(samples, stages, slo=parse_slo("ttft=1s")).all

    assert (whole.window.begins_s, whole.window.ends_s) == (4.0, 10.0)
    assert whole.throughput.completed_per_s == pytest.approx(2.0)
    assert whole.throughput.in_flight_mean == pytest.approx(4.0, rel=0.01)
    assert whole.goodput is not None
    assert whole.goodput.per_s == pytest.approx(2.0)
    assert whole.throughput.output_tokens_per_s == pytest.approx(32.0, rel=0.1)
    assert whole.window.steady is not False


def test_a_stage_lasts_as_planned_and_drains_outside_of_it() -> None:
    samples = [answer(number, at_s=0.1 + number / 10) for number in range(99)]

    window = summarize(samples, [Stage("10/s", 0.0, 10.0, rate_per_s=10.0)]).all.window

    assert (window.begins_s, window.ends_s) == (0.0, 10.0)


def test_prompt_types_and_stages_are_told_apart() -> None:
    samples = [
        answer(
            n,
            at_s=n / 10,
            ttft_s=0.1 * (1 + n // 50) + 0.5 * (n % 2),
            kind=("short", "long")[n % 2],
            stage=n // 50,
        )
        for n in range(100)
    ]

    summary = summarize(
        samples, [Stage("a", 0.0, 5.0, rate_per_s=10.0), Stage("b", 5.0, 10.0, rate_per_s=10.0)]
    )

    assert [part.label for part in summary.kinds] == ["long", "short"]
    assert [part.label for part in summary.stages] == ["a", "b"]
    assert [part.label for part in summary.cells] == ["long, a", "short, a", "long, b", "short, b"]
    assert [part.measures["ttft"].mean for part in summary.cells] == pytest.approx([0.6, 0.1, 0.7, 0.2])
    assert sum(part.counts.requests for part in summary.cells) == 100
    assert all(not part.measures["ttft"].curve for part in summary.cells)


def test_a_load_that_is_to_change_is_not_asked_to_be_steady() -> None:
    samples = [answer(n, at_s=n / 10, ttft_s=0.1 + n / 10) for n in range(100)]

    ramp = summarize(samples, [Stage("ramp 1/s to 20/s")]).all.window
    rate = summarize(samples, [Stage("10/s", rate_per_s=10.0)]).all.window

    assert (ramp.steady, rate.steady) == (None, False)


def test_a_queue_without_end_is_not_steady_also_when_its_end_is_cut_off() -> None:
    samples = [answer(n, at_s=n / 16, ttft_s=0.2 + n / 16) for n in range(60)]
    samples += [failure(n, at_s=n / 16, cause=Cause.CUT_OFF, ended_s=8.0) for n in range(60, 96)]

    assert summarize(samples, [Stage("16/s", 0.0, 6.0, rate_per_s=16.0)]).all.window.steady is False


def test_over_time_shows_what_came_and_went() -> None:
    samples = [answer(number, at_s=number / 10, tokens=11) for number in range(100)]

    moments = summarize(samples).over_time

    step_s = 2 * moments[0].at_s
    assert sum(moment.scheduled_per_s for moment in moments) * step_s == pytest.approx(100)
    assert sum(moment.completed_per_s for moment in moments) * step_s == pytest.approx(100)
    assert sum(moment.output_tokens_per_s for moment in moments) * step_s == pytest.approx(1100)
    assert moments[-1].in_flight == 0
    assert moments[0].ttft_p50_s == pytest.approx(0.2)
    assert len(moments) <= 150


def test_failures_are_grouped_the_most_frequent_first() -> None:
    samples = [failure(n, at_s=1.0 + n, status=500, detail=f"the {n}th") for n in range(3)]
    samples += [failure(10 + n, cause=Cause.CONNECT, detail="refused") for n in range(4)]
    samples += [failure(20, at_s=0.0, status=500, detail="the earliest")]
    samples += [failure(100 + n, at_s=9.0, status=500 + n) for n in range(1, 90)]

    failures = summarize(samples).failures

    assert failures[0].count >= 4
    server = next(each for each in failures if each.status == 500)
    assert (server.count, server.detail, server.first_s) == (4, "the earliest", pytest.approx(0.01))
    assert sum(each.count for each in failures) == len(samples)
    assert len(failures) <= 65


def test_cache_hits_are_taken_from_usage_else_from_the_engine() -> None:
    told = [answer(n, cached_tokens=25) for n in range(4)]

    usage = summarize(told, beside=Counted(1.0, 2.0), expected_cache_share=0.2).cache
    engine = summarize([answer()], beside=Counted(30.0, 100.0)).cache
    nobody = summarize([answer()], beside=Counted(None, None))

    assert (usage.source, usage.share, usage.hit_tokens_per_request) == ("usage", 0.25, 25.0)
    assert (engine.source, engine.share, engine.hit_tokens_per_request) == ("engine", 0.3, 30.0)
    assert (nobody.cache.source, nobody.cache.share) == ("none", None)
    assert any("prefix-cache hits" in note for note in nobody.notes)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ([answer(tokens=16, per_chunk=4)], "A chunk brought 4.00 tokens"),
        ([answer(tokens_from="chunks", completion_tokens=None)], "told no usage for 1 of 1"),
        ([answer(tokens=1)], "1 answers had one token"),
        ([answer(tokens=0)], "1 answers had no content"),
        ([answer(cause=Cause.CUT_OFF)], "1 requests were cut off"),
        ([answer(cause=Cause.CANCELLED)], "1 requests were cancelled by plan"),
        ([answer(planned_output_tokens=32)], "Answers were 50% shorter"),
        ([answer(planned_prompt_tokens=80)], "Prompts were 25% longer"),
    ],
)
def test_what_a_reader_must_know_is_said(samples: list[Sample], says: str) -> None:
    assert any(says in note for note in summarize(samples).notes)


def test_a_partial_run_says_so() -> None:
    assert "ended early" in summarize([answer()], interrupted=True).notes[0]


def test_a_long_run_is_summed_up_of_a_part_and_counted_whole() -> None:
    def many() -> Iterator[Sample]:
        for number in range(5000):
            yield answer(number, at_s=number / 100, tokens=4)

    summary = summarize(many(), [Stage("100/s", 0.0, 50.0, 100.0)], rows_max=1000, gaps_max=900)

    assert summary.kept.requests_share == 1 / 8
    assert summary.kept.gaps_share == 1 / 32
    assert summary.all.counts.completed == 5000
    assert summary.all.throughput.completed_per_s == pytest.approx(100, rel=0.02)
    assert summary.all.throughput.in_flight_mean == pytest.approx(26, rel=0.02)
    assert summary.all.measures["ttft"].mean == pytest.approx(0.2)
    assert any("one request in 8" in note for note in summary.notes)
    assert any("one request in 32" in note for note in summary.notes)


def test_stages_beyond_the_limit_are_said_to_be_left_out() -> None:
    samples = [answer(number, at_s=float(number), stage=number) for number in range(260)]

    summary = summarize(samples)

    assert len(summary.stages) == 256
    assert summary.stages[3].label == "stage 3"
    assert any("4 stages are left out" in note for note in summary.notes)


def test_nothing_at_all_is_a_summary_too() -> None:
    summary = summarize([], [Stage("10/s", rate_per_s=10.0)], slo=parse_slo("ttft=1s"))

    assert summary.all.counts.requests == 0
    assert summary.all.measures == {}
    assert summary.over_time == []
    assert summary.all.goodput is not None
    assert summary.all.goodput.share is None


def test_only_failures_are_a_summary_too() -> None:
    summary = summarize([failure(n, ended_s=None, sent_s=None, cause=Cause.CONNECT) for n in range(5)])

    assert summary.all.counts.failed == 5
    assert set(summary.all.measures) == set()


@given(
    st.lists(
        st.builds(
            lambda cause, at_s, tokens, kind, stage: answer(
                0, at_s=at_s, tokens=tokens, cause=cause, kind=kind, stage=stage
            ),
            ALL_CAUSES,
            st.floats(0, 100),
            st.integers(0, 5),
            st.sampled_from(["short", "long"]),
            st.integers(-1, 2),
        ),
        max_size=40,
    )
)
def test_every_request_is_counted_once_and_the_file_can_be_read_again(samples: list[Sample]) -> None:
    for index, sample in enumerate(samples):
        sample.index = index

    summary = summarize(samples, slo=parse_slo("ttft=1s"))

    counts = summary.all.counts
    assert summary.warmup + counts.requests == len(samples)
    assert counts.requests == counts.completed + counts.failed + counts.cancelled + counts.cut_off
    assert sum(counts.by_cause.values()) == counts.requests - counts.completed
    goodput = summary.all.goodput
    assert goodput is not None
    assert 0 <= goodput.good <= goodput.judged
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_the_order_of_samples_changes_nothing() -> None:
    samples = [answer(n, at_s=n / 20, ttft_s=0.1 + (n * 37 % 100) / 1000) for n in range(200)]
    shuffled = random.Random(2).sample(samples, len(samples))

    # Sums of floats differ in the last bits with their order, but nothing is summed in reading order but tokens.
    assert summarize(samples).all.measures == summarize(shuffled).all.measures


def test_the_shape_has_a_schema() -> None:
    assert "Part" in schema()["$defs"]
