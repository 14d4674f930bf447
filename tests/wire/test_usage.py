"""Usage and endings are found where engines put them, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.usage import NOTABLE, Notice, read_notice, usage_at_end


def notice(members: Any) -> Notice:
    return read_notice(json.dumps(members).encode())


@given(st.binary(max_size=60))
def test_what_is_no_such_json_says_nothing(data: bytes) -> None:
    read_notice(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[DONE]",
        b"[]",
        b"null",
        b'"x"',
        b'{"choices":3}',
        b'{"choices":[{"text":"\xff"}]}',
        b"[" * 100_000,
    ],
)
def test_a_reply_of_another_shape_is_an_empty_notice(data: bytes) -> None:
    assert read_notice(data) == Notice()


def test_chat_and_responses_apis_spell_the_same_counts_differently() -> None:
    chat = notice({"usage": {"prompt_tokens": 3, "completion_tokens": 0, "input_tokens": 8}}).usage
    responses = notice({"usage": {"input_tokens": 3, "output_tokens": 4}}).usage

    assert chat is not None
    assert (chat.prompt, chat.completion) == (3, 0)
    assert responses is not None
    assert (responses.prompt, responses.completion) == (3, 4)


@pytest.mark.parametrize("count", [-1, 2**53 + 1, 10**30, 1.5, "7"])
def test_a_count_that_cannot_be_is_no_usage(count: Any) -> None:
    assert notice({"usage": {"completion_tokens": count}}).usage is None


@pytest.mark.parametrize(
    "choice",
    [
        {"text": "a"},
        {"delta": {"content": "a"}},
        {"delta": {"role": "assistant", "content": "a"}},
        {"delta": {"reasoning_content": "a"}},
        {"delta": {"reasoning": "a"}},
        {"delta": {"tool_calls": [{"index": 0}]}},
        {"delta": {"content": " "}},
    ],
)
def test_what_the_model_wrote_is_a_token(choice: dict[str, Any]) -> None:
    said = notice({"choices": [choice]})

    assert said.choices
    assert said.has_token


@pytest.mark.parametrize(
    "choice",
    [
        {"text": ""},
        {"text": None},
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"role": "assistant", "content": None}},
        {"delta": {"content": "", "tool_calls": [], "reasoning_content": None}},
        {"delta": {}, "finish_reason": "stop"},
        {"delta": None},
    ],
)
def test_a_role_or_an_ending_is_no_token(choice: dict[str, Any]) -> None:
    assert not notice({"choices": [choice]}).has_token


def test_an_event_of_another_api_tells_of_no_token() -> None:
    assert not notice({"type": "response.created"}).has_token
    assert not notice({"choices": []}).has_token


def test_only_an_event_with_usage_and_no_choice_is_only_usage() -> None:
    usage = {"completion_tokens": 1}

    assert notice({"usage": usage, "choices": []}).only_usage
    assert not notice({"usage": usage, "choices": [{"text": ""}]}).only_usage
    assert not notice({"usage": usage}).only_usage
    assert not notice({"usage": None, "choices": []}).only_usage


def test_an_abort_of_any_choice_is_an_abort() -> None:
    assert notice({"choices": [{"finish_reason": None}, {"finish_reason": "abort"}]}).aborted
    assert notice({"choices": [{"delta": {"content": "x"}, "finish_reason": "abort"}]}).aborted
    assert not notice({"choices": [{"finish_reason": "stop"}]}).aborted
    assert not notice({}).aborted


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"usage":{"prompt_tokens":1}}\n\n',
        b'data: {"usage" : {"prompt_tokens":1}}\n\n',
        b'data: {"choices":[{"finish_reason":"abort"}]}\n\n',
        b"data: [DONE]\n\n",
        b"data:[DONE]\n\n",
        b"data: {}\n\ndata: [DONE]\r\n\r\n",
    ],
)
def test_an_event_that_may_tell_something_is_notable(event: bytes) -> None:
    assert NOTABLE.search(event)


@given(st.text())
def test_no_text_of_a_model_makes_an_event_notable(text: str) -> None:
    for written in (text, '"usage":{', "\ndata: [DONE]", "data: [DONE]", ' "abort" ', text + '"usage": {'):
        event = b"data: %b\n\n" % json.dumps({"choices": [{"text": written}], "usage": None}).encode()

        assert written == "abort" or not NOTABLE.search(event)


@pytest.mark.parametrize(
    ("tail", "tokens"),
    [
        (b'0.1]}],"usage":{"prompt_tokens":7,"total_tokens":7}}', 7),
        (b'"usage" : {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0}}, "id": "x"}', 7),
        (b'"usage":null}', None),
        (b'"usage":{"prompt_tokens":7', None),
        (b'"usage":{"prompt_tokens":-7}}', None),
        (b'{"text":"\\"usage\\":{}"}', None),
        (b"\xff\xfe", None),
    ],
)
def test_usage_is_found_at_the_end_of_a_large_reply(tail: bytes, tokens: int | None) -> None:
    usage = usage_at_end(tail)

    assert (usage.prompt if usage else None) == tokens
