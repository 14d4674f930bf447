"""Which answers are continued, and which are ended."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.policy.resume import OBSTACLES, TIME_LEFT_MIN_S, Decision, Step, is_greedy, obstacle, resume


def decide(**changed: Any) -> Decision:
    usual: dict[str, Any] = {
        "obstacle": "",
        "finish_reason": None,
        "tokens_left": 10,
        "continuations_done": 0,
        "continuations_max": 2,
        "time_left_s": 60.0,
    }
    return resume(**{**usual, **changed})


def test_an_answer_that_broke_off_is_continued() -> None:
    assert decide().step is Step.CONTINUE
    assert decide(tokens_left=None).step is Step.CONTINUE


@pytest.mark.parametrize(
    "changed",
    [
        {"obstacle": "logprobs"},
        {"tokens_left": 0},
        {"tokens_left": -3},
        {"continuations_done": 2},
        {"continuations_done": 0, "continuations_max": 0},
        {"time_left_s": TIME_LEFT_MIN_S / 2},
        {"time_left_s": -1.0},
    ],
)
def test_what_forbids_to_continue_it_is_given_as_the_reason(changed: dict[str, Any]) -> None:
    decision = decide(**changed)

    assert decision.step is Step.GIVE_UP
    assert decision.reason


def test_the_last_continuation_that_is_allowed_is_made() -> None:
    assert decide(continuations_done=1).step is Step.CONTINUE
    assert decide(time_left_s=TIME_LEFT_MIN_S).step is Step.CONTINUE
    assert decide(tokens_left=1).step is Step.CONTINUE


@pytest.mark.parametrize("forbidding", ["", "logprobs", "response_format"])
def test_an_answer_whose_finish_reason_was_delivered_is_whole(forbidding: str) -> None:
    decision = decide(finish_reason="stop", obstacle=forbidding, tokens_left=0, time_left_s=0.0)

    assert decision.step is Step.FINISH


@pytest.mark.parametrize("forbidding", ["n", "best_of", "several choices"])
def test_one_finished_choice_of_several_is_not_the_whole_answer(forbidding: str) -> None:
    assert decide(finish_reason="stop", obstacle=forbidding).step is Step.GIVE_UP


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", "2"),
        ("best_of", 3),
        ("prompt", ["a", "b"]),
        ("prompt", [1, 2, 3]),
        ("logprobs", True),
        ("logprobs", 0),
        ("logprobs", 5),
        ("top_logprobs", 2),
        ("prompt_logprobs", 0),
        ("echo", True),
        ("suffix", "the end"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("structured_outputs", {"regex": "a"}),
        ("guided_json", {"type": "object"}),
        ("guided_choice", ["a", "b"]),
        ("grammar", "root ::= 'a'"),
        ("use_beam_search", True),
        ("return_token_ids", True),
        ("audio", {"voice": "x"}),
    ],
)
def test_a_request_for_more_than_the_text_of_one_answer_is_an_obstacle(name: str, value: object) -> None:
    assert obstacle({name: value}) == name


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"n": 1, "best_of": 1, "prompt": "one text"},
        {"logprobs": False, "top_logprobs": 0, "echo": False, "suffix": ""},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "function_call": "auto"},
        {"response_format": {"type": "text"}},
        {"temperature": 0.7, "max_tokens": 3},
    ],
)
def test_a_request_for_the_text_of_one_answer_is_none(asked: dict[str, Any]) -> None:
    assert obstacle(asked) == ""


def test_every_obstacle_is_named_by_its_own_member() -> None:
    assert all(name.islower() for name in OBSTACLES)


@pytest.mark.parametrize(
    ("asked", "greedy"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.8, "top_k": 1}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": False}, False),
        ({"top_k": 40}, False),
        ({}, False),
    ],
)
def test_only_a_request_that_says_so_is_greedy(asked: dict[str, Any], greedy: bool) -> None:
    assert is_greedy(asked) is greedy
