from __future__ import annotations

import contextlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.faults import (
    FAULT_NAMES,
    NO_FAULT,
    Fault,
    FaultPlan,
    parse_fault,
    parse_fault_rate,
)


def test_faults_are_joined_by_semicolons_or_commas():
    fault = Fault(status=429, retry_after_s=3, close_idle=True)

    assert parse_fault("status=429;retry_after=3, close_idle") == fault
    assert parse_fault("") == NO_FAULT


def test_times_have_units_and_some_faults_have_a_usual_value():
    assert parse_fault("refuse=500ms").refuse_s == 0.5
    assert parse_fault("trickle=0.2").trickle_s == 0.2
    assert parse_fault("abort") == Fault(abort_after_tokens=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stall_after_token=3", "nearest known is 'stall_after_tokens'"),
        ("zzz", "nearest known is"),
        ("reset_after_tokens", "needs a value"),
        ("reset_after_tokens=-1", "whole number"),
        ("status=200", "error status"),
        ("no_usage=1", "takes no value"),
        ("refuse=soon", "duration"),
        ("retry_after=3", "needs a status"),
        ("tokens_per_chunk=0", "at least 1"),
    ],
)
def test_a_wrong_fault_says_what_is_wrong(text, words):
    with pytest.raises(ValueError, match=words):
        parse_fault(text)


@given(st.text(max_size=30))
@settings(deadline=None)
def test_any_text_is_a_fault_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_fault(text), Fault)


def test_a_rate_is_a_fault_and_its_probability():
    rate = parse_fault_rate("reset_after_tokens=5:0.01")

    assert (rate.fault, rate.probability) == (Fault(reset_after_tokens=5), 0.01)


@pytest.mark.parametrize("text", ["early_role", "early_role:2", "early_role:x", "nope:0.1", ":0.1x"])
def test_a_wrong_rate_is_refused(text):
    with pytest.raises(ValueError, match=r"fault"):
        parse_fault_rate(text)


def test_random_faults_strike_their_share_and_the_same_requests_for_a_seed():
    def struck(seed: int) -> list[bool]:
        plan = FaultPlan([parse_fault_rate("no_usage:0.3")], Random(seed))
        return [plan.draw().no_usage for _ in range(1000)]

    assert struck(1) == struck(1) != struck(2)
    assert 250 < sum(struck(1)) < 350


def test_a_script_strikes_the_next_requests_and_no_more():
    plan = FaultPlan([], Random(0))

    plan.script(Fault(status=500), 2)

    assert [plan.draw().status for _ in range(3)] == [500, 500, None]


def test_what_a_request_asks_for_goes_before_chance():
    plan = FaultPlan([parse_fault_rate("status=500;no_usage:1")], Random(0))

    assert plan.draw(Fault(status=400)) == Fault(status=400, no_usage=True)


@pytest.mark.parametrize("name", FAULT_NAMES)
def test_every_fault_can_be_asked_for(name):
    with_value = {"status": "status=500", "retry_after": "status=500;retry_after=1"}
    if name.endswith("_tokens") or name == "tokens_per_chunk":
        with_value[name] = f"{name}=3"

    assert parse_fault(with_value.get(name, name)) != NO_FAULT
