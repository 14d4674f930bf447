"""`/generate` says the same as the chat completion behind it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import ClientError, EngineError
from penstock.wire.generate import from_chat, from_chat_event, to_chat
from penstock.wire.openai import CHAT, read_request
from penstock.wire.sse import COMMENT, DONE, event, event_data


def event_of(**members: Any) -> bytes:
    return event(json.dumps(members).encode())


@given(
    st.text(),
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.text(min_size=1),
            "max_tokens": st.integers(1, 9),
            "temperature": st.floats(0, 2),
            "stream": st.booleans(),
        },
    ),
)
def test_a_request_becomes_a_chat_with_one_user_message(prompt: str, rest: dict[str, Any]) -> None:
    body = to_chat(json.dumps({"prompt": prompt, **rest}).encode(), "first")

    expected = {"model": "first", "stream": False, **rest, "messages": [{"role": "user", "content": prompt}]}
    assert json.loads(body) == expected
    assert read_request(CHAT, body).model == expected["model"]


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_the_clients_fault(body: bytes) -> None:
    with pytest.raises(ClientError):
        to_chat(b"\x00" + body, "first")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"{}", "invalid_type", "prompt"),
        (b'{"prompt":1}', "invalid_type", r"\$\.prompt"),
        (b'{"prompt":"x","max_token":1}', "invalid_type", "max_token"),
        (b'{"prompt":"\xff"}', "invalid_json", "no /generate request"),
        (b'{"prompt":', "invalid_json", "no /generate request"),
    ],
)
def test_a_refusal_names_the_member_and_shows_a_right_request(body: bytes, code: str, words: str) -> None:
    with pytest.raises(ClientError, match=words) as caught:
        to_chat(body, "first")

    assert caught.value.code == code
    assert '"prompt"' in caught.value.hint


def test_a_reply_is_the_text_of_the_first_choice_and_the_usage_as_it_came() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "details": {"x": None}}
    choice = {"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}

    reply = from_chat(json.dumps({"id": "1", "model": "m", "choices": [choice], "usage": usage}).encode())

    assert json.loads(reply) == {
        "id": "1", "model": "m", "text": "hello", "finish_reason": "stop", "usage": usage,
    }  # fmt: skip


def test_a_reply_without_text_has_an_empty_one() -> None:
    reply = from_chat(b'{"choices":[{"message":{"content":null},"finish_reason":"length"}]}')

    assert json.loads(reply) == {"id": "", "model": "", "text": "", "finish_reason": "length", "usage": None}


@pytest.mark.parametrize(
    "reply",
    [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":[]}}]}', b"\xff"],
)
def test_a_reply_that_is_no_completion_is_the_engines_fault(reply: bytes) -> None:
    with pytest.raises(EngineError, match="no chat completion"):
        from_chat(reply)


def test_an_event_with_text_or_an_ending_is_told() -> None:
    text = from_chat_event(event_of(choices=[{"delta": {"content": "a"}}]))
    ending = from_chat_event(event_of(choices=[{"delta": {}, "finish_reason": "stop"}]))

    assert json.loads(event_data(text)) == {"text": "a", "finish_reason": None}
    assert json.loads(event_data(ending)) == {"text": "", "finish_reason": "stop"}


@pytest.mark.parametrize(
    "chat_event",
    [
        event_of(choices=[]),
        event_of(choices=[{"delta": {"role": "assistant", "content": ""}}]),
        event_of(choices=[], usage={"prompt_tokens": 1}),
    ],
)
def test_an_event_that_tells_nothing_is_left_out(chat_event: bytes) -> None:
    assert from_chat_event(chat_event) == b""


@pytest.mark.parametrize(
    "other",
    [DONE, COMMENT, event_of(error={"message": "engine died"}), event(b"{broken"), event(b'{"choices":1}')],
)
def test_what_is_no_chunk_is_passed_on_as_it_came(other: bytes) -> None:
    assert from_chat_event(other) == other
