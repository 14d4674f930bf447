"""Recorded loads as requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.bench.plan import PlannedRequest, Stage
from penstock.bench.workloads.calibration import Calibration, Source
from penstock.bench.workloads.kinds import parse_mix
from penstock.bench.workloads.lengths import WorkloadError
from penstock.bench.workloads.prompts import BLOCK_TOKENS, Cache
from penstock.bench.workloads.replay import replay, rescaled
from penstock.bench.workloads.trace_rows import TraceFormat, TraceRow
from penstock.bench.workloads.traces import Trace
from penstock.bench.workloads.workload import Workload

KNOWN = Calibration(source=Source.SERVER, exact=True, base_tokens=10, turn_tokens=13)
WORKLOAD = Workload("m", parse_mix("short"), calibration=KNOWN)


def trace(*rows: TraceRow) -> Trace:
    return Trace("t", TraceFormat.MOONCAKE, list(rows), {})


def texts(request: PlannedRequest) -> list[str]:
    return [message["content"] for message in json.loads(request.body)["messages"]]


def common_words(one: PlannedRequest, other: PlannedRequest) -> int:
    pairs = zip(texts(one)[0].split(), texts(other)[0].split(), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), 10**6)


def test_lengths_times_and_kinds_are_those_of_the_recording() -> None:
    made = list(replay(WORKLOAD, trace(TraceRow(0.0, 400, 7, "api"), TraceRow(1.5, 50, 9, "chat"))))

    assert [(one.at_s, one.prompt_tokens, one.output_tokens, one.kind) for one in made] == [
        (0.0, 400, 7, "api"),
        (1.5, 50, 9, "chat"),
    ]
    assert [len(texts(one)[0].split()) for one in made] == [1 + 390, 1 + 40]


def test_a_trace_can_be_replayed_faster_and_in_part() -> None:
    given = trace(*[TraceRow(float(at), 50, 7, think_s=4.0) for at in range(10)])

    part = rescaled(given, speed=4.0, duration_s=3.0)

    assert [row.at_s for row in part.rows] == [0.0, 0.25, 0.5, 0.75]
    assert {row.think_s for row in part.rows} == {1.0}


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(WorkloadError, match="speed: "):
        rescaled(trace(), speed)


def test_equal_blocks_are_equal_text_and_no_more() -> None:
    rows = [TraceRow(0.0, 1400, 5, blocks=ids) for ids in [(1, 2, 3), (1, 2, 4), (1, 5, 6), (7, 2, 3)]]

    first, two, one, none = replay(WORKLOAD, trace(*rows))

    assert 2 * BLOCK_TOKENS < common_words(first, two) <= 2 * BLOCK_TOKENS + 5
    assert BLOCK_TOKENS < common_words(first, one) <= BLOCK_TOKENS + 5
    assert common_words(first, none) <= 5
    assert [request.shared_tokens for request in (first, two, one, none)] == [10, 1034, 522, 10]


def test_a_request_that_is_all_known_blocks_shares_all_of_it() -> None:
    first, second = replay(WORKLOAD, trace(*[TraceRow(0.0, 1000, 5, blocks=(1, 2))] * 2))

    assert second.shared_tokens == second.prompt_tokens == 1000
    assert first.body == second.body


def test_requests_without_blocks_begin_each_in_its_own_way_unless_they_are_to_share() -> None:
    rows = [TraceRow(0.0, 400, 5)] * 2

    busting = list(replay(WORKLOAD, trace(*rows)))
    friendly = list(replay(replace(WORKLOAD, cache=Cache(0.5)), trace(*rows)))

    assert common_words(*busting) <= 5
    assert 195 < common_words(*friendly) <= 201


def test_a_sessions_turns_follow_each_other_and_wait_for_their_recorded_times() -> None:
    rows = [
        TraceRow(0.0, 50, 7, session="a"),
        TraceRow(1.0, 50, 7),
        TraceRow(2.0, 50, 7, session="a"),
        TraceRow(None, 50, 7, session="a", think_s=2.5),
    ]

    made = list(replay(WORKLOAD, trace(*rows)))

    assert [(one.session, one.turn, one.at_s, one.think_s) for one in made] == [
        (0, 0, 0.0, 0.0),
        (0, 1, 2.0, 0.0),
        (0, 2, None, 2.5),
        (-1, 0, 1.0, 0.0),
    ]
    assert [one.index for one in made] == [0, 1, 2, 3]


def test_other_times_can_be_given() -> None:
    rows = [TraceRow(0.0, 50, 7), TraceRow(0.0, 50, 7, session="a"), TraceRow(9.0, 50, 7, session="a")]

    made = list(replay(WORKLOAD, trace(*rows), times=[3.0, 4.0]))

    assert [one.at_s for one in made] == [3.0, 4.0, None]
    assert len(list(replay(WORKLOAD, trace(*rows), times=[3.0]))) == 1


def test_a_count_and_stages_are_kept_to() -> None:
    rows = [TraceRow(float(at), 50, 7) for at in range(6)]

    made = list(replay(WORKLOAD, trace(*rows), count=4, stages=[Stage("a"), Stage("b", 2.0)]))

    assert [one.stage for one in made] == [0, 0, 1, 1]


def test_what_does_not_fit_the_context_is_shortened_and_counted() -> None:
    small = replace(WORKLOAD, calibration=replace(KNOWN, context_tokens=100))
    plan = replay(small, trace(TraceRow(0.0, 5000, 20)))

    made = list(plan)

    assert (made[0].prompt_tokens, made[0].output_tokens) == (80, 20)
    assert plan.tally.shortened == 1


def talk(**more: Any) -> list[TraceRow]:
    said = ("how are you", "I am well", "and now")
    return [
        TraceRow(None, None, None, session="s", texts=said[:1], answer=said[1], **more),
        TraceRow(None, None, None, session="s", texts=said, answer="x" * 40, **more),
    ]


def words_of(text: str) -> int:
    return len(text.split())


def test_recorded_texts_are_sent_behind_words_that_no_cache_has() -> None:
    first, second = replay(WORKLOAD, trace(*talk()))

    assert texts(first)[0].endswith("\n\nhow are you")
    assert texts(second) == [texts(first)[0], "I am well", "and now"]
    assert (first.output_tokens, second.output_tokens) == (2, 10)
    assert first.prompt_tokens is None


def test_recorded_texts_are_sent_as_they_are_where_caches_are_welcome() -> None:
    first, _ = replay(replace(WORKLOAD, cache=Cache(1.0)), trace(*talk()))

    assert texts(first) == ["how are you"]


def test_recorded_texts_can_be_counted() -> None:
    first, second = replay(WORKLOAD, trace(*talk()), tokens_of=words_of)

    assert first.prompt_tokens == 10 + (9 + 3 - 1)
    assert second.prompt_tokens == 10 + 13 + (9 + 3 - 1) + (3 - 1) + (2 - 1)
    assert (first.output_tokens, second.output_tokens) == (3, 1)
    assert (first.shared_tokens, second.shared_tokens) == (10, 10 + 9 + 3)


def test_a_conversation_ends_before_it_outgrows_the_context() -> None:
    small = replace(WORKLOAD, calibration=replace(KNOWN, context_tokens=35))
    plan = replay(small, trace(*talk()), tokens_of=words_of)

    assert [one.turn for one in plan] == [0]
    assert plan.tally.shortened == 1


def test_one_seed_makes_one_plan() -> None:
    rows = trace(*[TraceRow(float(at), 500, 7, blocks=(at % 3,)) for at in range(20)], *talk())
    given = replace(WORKLOAD, cancel_share=0.5)

    assert list(replay(given, rows, seed=3)) == list(replay(given, rows, seed=3))
    assert list(replay(given, rows, seed=3)) != list(replay(given, rows, seed=4))
