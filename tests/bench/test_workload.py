"""What a run is going to send."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.bench.plan import PlannedRequest, Stage
from penstock.bench.workloads.calibration import Calibration, Source
from penstock.bench.workloads.kinds import Kind, mix_of, parse_mix
from penstock.bench.workloads.lengths import Span, WorkloadError, fixed, parse_lengths, parse_span
from penstock.bench.workloads.prompts import Cache
from penstock.bench.workloads.workload import IgnoreEos, Workload, plan

KNOWN = Calibration(source=Source.SERVER, exact=True, base_tokens=10, turn_tokens=13)
TALK = Kind(
    "talk",
    fixed(100),
    fixed(20),
    turns=fixed(3),
    turn_prompt=fixed(30),
    think=parse_span("2s"),
)


def workload(*kinds: Kind, **settings: Any) -> Workload:
    mix = mix_of([(kind, 1) for kind in kinds]) if kinds else parse_mix("short=0.7,long=0.3")
    return Workload("m", mix, **{"calibration": KNOWN, **settings})


def planned(given: Workload, count: int = 50, seed: int = 1, **more: Any) -> list[PlannedRequest]:
    return list(plan(given, [place / 10 for place in range(count)], seed=seed, **more))


def messages(request: PlannedRequest) -> list[str]:
    return [message["content"] for message in json.loads(request.body)["messages"]]


def test_one_seed_makes_one_plan() -> None:
    chat = workload(*parse_mix("chat,code").kinds, cancel_share=0.3, slow_share=0.2, cache=Cache(0.5, 7))

    assert planned(chat) == planned(chat)
    assert planned(chat) != planned(chat, seed=2)


def test_each_request_has_its_time_and_its_place() -> None:
    made = planned(workload(), 30)

    assert [request.at_s for request in made] == [place / 10 for place in range(30)]
    assert [request.index for request in made] == list(range(30))


def test_a_prompt_has_the_words_that_make_its_tokens() -> None:
    request = planned(workload(Kind("x", fixed(100), fixed(7))))[0]

    assert request.prompt_tokens == 100
    assert len(messages(request)[0].split()) == 1 + 100 - KNOWN.base_tokens
    assert json.loads(request.body)["max_tokens"] == request.output_tokens == 7


def test_where_nobody_counted_no_length_is_told() -> None:
    assert planned(workload(calibration=Calibration()))[0].prompt_tokens is None


def test_another_salt_changes_the_words_and_nothing_else() -> None:
    ones, others = planned(workload()), planned(workload(salt="second run"))

    assert [replace(one, body=b"") for one in ones] == [replace(other, body=b"") for other in others]
    assert not {one.body for one in ones} & {other.body for other in others}


def test_plans_of_different_indexes_share_no_prompt() -> None:
    warm = planned(workload(), first_index=10**9, stage=-1)

    assert {request.stage for request in warm} == {-1}
    assert not {request.body for request in warm} & {request.body for request in planned(workload())}


def test_cancellations_and_slow_readers_change_nothing_else() -> None:
    plain, rough = planned(workload(), 500), planned(workload(cancel_share=0.2, slow_share=0.1), 500)

    assert [(one.kind, one.body) for one in plain] == [(one.kind, one.body) for one in rough]


def test_shares_of_clients_leave_or_read_slowly() -> None:
    made = planned(
        workload(cancel_share=0.2, cancel_after=Span(0.5, 2.0), slow_share=0.1, slow_bytes_per_s=50.0), 2000
    )

    leaving = [request.cancel_after_s for request in made if request.cancel_after_s is not None]
    slow = [request.read_bytes_per_s for request in made if request.read_bytes_per_s is not None]
    assert len(leaving) == pytest.approx(400, rel=0.15)
    assert all(0.5 <= after_s <= 2.0 for after_s in leaving)
    assert len(slow) == pytest.approx(200, rel=0.2)
    assert set(slow) == {50.0}


def test_a_closed_loop_has_no_times_and_ends_by_its_count() -> None:
    made = list(plan(workload(), None, 17))

    assert len(made) == 17
    assert {request.at_s for request in made} == {None}


def test_a_closed_loop_without_a_count_goes_on() -> None:
    assert len(list(islice(plan(workload(), None), 5000))) == 5000


def test_an_open_loop_is_cut_off_by_its_count() -> None:
    assert len(list(plan(workload(), [0.1, 0.2, 0.3], 2))) == 2


def test_a_request_belongs_to_the_stage_of_its_time() -> None:
    stages = [Stage("1/s", 0.0, 1.0), Stage("2/s", 1.0, 2.0), Stage("4/s", 2.0)]

    made = list(plan(workload(), [0.0, 0.99, 1.0, 1.5, 2.0, 9.0], stages=stages))

    assert [request.stage for request in made] == [0, 0, 1, 1, 2, 2]


def test_a_later_turn_holds_the_earlier_ones_with_an_answer_of_the_planned_length_between() -> None:
    first, second, third = planned(workload(TALK), 1)

    assert messages(third)[:3] == messages(second)
    assert messages(second)[:1] == messages(first)
    assert [len(text.split()) for text in messages(third)] == [91, 20, 30, 20, 30]


def test_a_later_turn_is_as_long_as_all_that_was_said() -> None:
    made = planned(workload(TALK), 1)

    assert [request.prompt_tokens for request in made] == [100, 100 + 13 + 19 + 29, 100 + 2 * (13 + 19 + 29)]


def test_a_session_thinks_before_its_later_turns_whose_times_nobody_knows() -> None:
    made = planned(workload(TALK), 2)

    assert [request.think_s for request in made] == [0.0, 2.0, 2.0] * 2
    assert [request.at_s for request in made] == [0.0, None, None, 0.1, None, None]
    assert [(request.session, request.turn) for request in made] == [
        (s, t) for s in (0, 1) for t in (0, 1, 2)
    ]


def test_the_earlier_prompt_of_a_session_may_come_from_a_cache() -> None:
    first, second, third = planned(workload(TALK), 1)

    assert first.shared_tokens == KNOWN.base_tokens
    assert (second.shared_tokens, third.shared_tokens) == (first.prompt_tokens, second.prompt_tokens)


def test_a_request_of_one_turn_is_no_session() -> None:
    assert {request.session for request in planned(workload())} == {-1}


def test_a_count_cuts_a_session_short() -> None:
    assert len(list(plan(workload(TALK), None, 7))) == 7


def test_what_is_shared_by_design_is_told_and_added_up() -> None:
    given = plan(workload(Kind("x", fixed(110), fixed(5)), cache=Cache(0.8, 2)), [0.0] * 10)

    made = list(given)

    assert {request.shared_tokens for request in made} == {KNOWN.base_tokens + 80}
    assert given.tally.shared_part == pytest.approx(90 / 110)
    assert len({messages(request)[0][:200] for request in made}) == 2


def test_what_does_not_fit_the_context_is_shortened_and_counted() -> None:
    small = replace(KNOWN, context_tokens=128)
    given = plan(workload(Kind("x", fixed(500), fixed(100)), calibration=small), [0.0])

    request = next(given)

    assert (request.prompt_tokens, request.output_tokens) == (64, 64)
    assert given.tally.notes() == ["1 requests were shortened or left out to fit the server's context."]


def test_a_session_ends_before_it_outgrows_the_context() -> None:
    small = replace(KNOWN, context_tokens=190)
    given = plan(workload(TALK, calibration=small), [0.0, 1.0])

    made = list(given)

    assert [request.turn for request in made] == [0, 1, 0, 1]
    assert all((request.prompt_tokens or 0) + (request.output_tokens or 0) <= 190 for request in made)
    assert given.tally.shortened == 2


def test_a_prompt_shorter_than_the_chat_template_is_lengthened_and_counted() -> None:
    given = plan(workload(Kind("x", fixed(3), fixed(5))), [0.0])

    assert next(given).prompt_tokens == KNOWN.base_tokens
    assert given.tally.lengthened == 1


def test_ignore_eos_is_sent_where_the_server_took_it_or_where_it_is_wanted() -> None:
    def sent(setting: IgnoreEos, taken: bool | None) -> bool:
        body = planned(workload(ignore_eos=setting, calibration=replace(KNOWN, ignore_eos=taken)), 1)[0].body
        return b'"ignore_eos":true' in body

    assert [sent(IgnoreEos.AUTO, taken) for taken in (True, False, None)] == [True, False, False]
    assert sent(IgnoreEos.ON, None)
    assert not sent(IgnoreEos.OFF, True)


def test_a_report_can_say_what_was_sent() -> None:
    told = " ".join(workload(TALK, cancel_share=0.25, slow_share=0.5, cache=Cache(0.5)).describe())

    for words in (
        "exact number of tokens",
        "Cache-friendly",
        "sessions of 3 turns",
        "after 2s",
        "25.0%",
        "1000 bytes/s",
    ):
        assert words in told


@pytest.mark.parametrize(
    "settings",
    [
        {"cancel_share": 1.5},
        {"slow_share": -0.1},
        {"slow_bytes_per_s": 0.0},
        {"extra": {"model": "x"}},
        {"mix": mix_of([(replace(TALK, turns=fixed(201)), 1)])},
        {"model": ""},
        {"calibration": replace(KNOWN, context_tokens=10)},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(WorkloadError):
        plan(replace(workload(), **settings), None, 1)


@given(
    st.sampled_from(["16", "uniform:5-900", "lognormal:300,1.5", "normal:100,80"]),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(11, 2000)),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_any_plan_has_the_lengths_that_it_tells_and_fits_the_context(
    prompt: str, turns: int, context: int | None, share: float, seed: int
) -> None:
    kind = Kind(
        "x", parse_lengths(prompt), parse_lengths("uniform:1-300"), fixed(turns), parse_lengths("1-50")
    )
    calibration = replace(KNOWN, context_tokens=context)

    for request in planned(workload(kind, calibration=calibration, cache=Cache(share)), 5, seed):
        texts = messages(request)
        words = sum(len(text.split()) for text in texts) - len(texts)
        assert request.prompt_tokens == calibration.tokens_of(words, turns=request.turn)
        assert request.shared_tokens <= request.prompt_tokens
        assert context is None or request.prompt_tokens + (request.output_tokens or 0) <= context
