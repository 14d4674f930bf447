"""The request for the rest of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.spec import VLLM_MANNER
from penstock.wire.openai import CHAT, COMPLETIONS
from penstock.wire.resume import (
    CUT_BACK_CHARS_MAX,
    Manner,
    completion_tokens_max,
    continued,
    members,
    safe_cut,
)

LLAMACPP_MANNER = Manner(joins=True)


def rest(body: dict[str, Any], text: str, tokens: int = 1, manner: Manner = VLLM_MANNER) -> dict[str, Any]:
    route = CHAT if "messages" in body else COMPLETIONS
    made: dict[str, Any] = json.loads(continued(route, json.dumps(body).encode(), text, tokens, manner))
    return made


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_every_byte_that_need_not_change_stays() -> None:
    body = b'{ "messages" : [ {"role":"user", "content":"\\u00e9 ]}"} ] ,"x":[1.0e3, {"a":null}],"max_tokens": 9 }'

    made = continued(CHAT, body, 'so "far"', 4, LLAMACPP_MANNER)

    assert made == (
        b'{ "messages" : [ {"role":"user", "content":"\\u00e9 ]}"},{"role":"assistant","content":"so \\"far\\""}] ,'
        b'"x":[1.0e3, {"a":null}],"max_tokens": 5 }'
    )


def test_vllm_is_told_to_go_on_with_the_last_message() -> None:
    made = rest({"messages": [user("q")], "add_generation_prompt": True}, "so far")

    assert made == {
        "messages": [user("q"), assistant("so far")],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def test_nothing_delivered_is_the_same_request_again() -> None:
    body = {"messages": [user("q")], "max_tokens": 5}

    assert rest(body, "", 0) == body


def test_what_the_client_began_itself_is_gone_on_with() -> None:
    begun = {"messages": [user("q"), assistant("Once")], "continue_final_message": True}

    assert rest(begun, " upon")["messages"] == [user("q"), assistant("Once upon")]
    assert rest(begun, " upon", manner=LLAMACPP_MANNER)["messages"] == [user("q"), assistant("Once upon")]


def test_only_llama_cpp_goes_on_with_a_last_message_unasked() -> None:
    body = {"messages": [user("q"), assistant("Once")]}

    assert rest(body, " a")["messages"] == [user("q"), assistant("Once"), assistant(" a")]
    assert rest(body, " a", manner=LLAMACPP_MANNER)["messages"] == [user("q"), assistant("Once a")]


def test_a_message_in_parts_is_gone_on_with_in_its_last_part() -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]
    body = {"messages": [assistant(parts)], "continue_final_message": True}

    assert rest(body, " three")["messages"][0]["content"][-1] == {"type": "text", "text": "two three"}


@pytest.mark.parametrize("content", [None, [], [{"type": "image_url"}], ["text"], 3])
def test_a_last_message_that_is_no_text_can_not_be_gone_on_with(content: object) -> None:
    with pytest.raises(ValueError, match="not text"):
        rest({"messages": [assistant(content)], "continue_final_message": True}, "a")


def test_a_completion_gets_a_longer_prompt() -> None:
    assert rest({"prompt": "Once", "max_tokens": 8}, " upon", 3) == {"prompt": "Once upon", "max_tokens": 5}
    with pytest.raises(ValueError, match="one text"):
        rest({"prompt": ["a", "b"]}, " upon")


def test_all_limits_on_tokens_are_lowered_and_none_below_zero() -> None:
    body = {
        "messages": [user("q")],
        "max_tokens": 9,
        "max_completion_tokens": 8,
        "min_tokens": 2,
        "n_predict": None,
    }

    made = rest(body, "a b c", 3)

    assert [made[name] for name in ("max_tokens", "max_completion_tokens", "min_tokens")] == [6, 5, 0]
    assert made["n_predict"] is None


@given(
    text=st.text(min_size=1),
    question=st.text(),
    tokens=st.integers(0, 50),
    others=st.dictionaries(st.text(min_size=1).map("x_".__add__), st.integers() | st.text()),
)
def test_any_text_is_gone_on_with_and_other_members_stay(
    text: str, question: str, tokens: int, others: dict[str, Any]
) -> None:
    body = {"messages": [user(question)], "max_tokens": 100, **others}

    made = rest(body, text, tokens)

    assert made["messages"] == [user(question), assistant(text)]
    assert made["max_tokens"] == 100 - tokens
    assert {name: made[name] for name in others} == others


def test_members_are_read_without_the_messages() -> None:
    body = b'{"messages":[{"content":"n"}],"n":2,"temperature":null,"max_tokens":4}'

    assert members(body, {"n", "temperature", "max_tokens"}) == {"n": 2, "max_tokens": 4}


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({}, None),
        ({"max_tokens": 4}, 4),
        ({"max_tokens": 4, "max_completion_tokens": 3}, 3),
        ({"max_tokens": "4"}, None),
        ({"max_tokens": True}, None),
    ],
)
def test_the_smallest_limit_counts(asked: dict[str, Any], most: int | None) -> None:
    assert completion_tokens_max(asked) == most


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The gate is op", "The gate is"),
        ("The gate is ", "The gate"),
        ("one, two, thr", None),
        ("one two, thr", "one"),
        ("a  b", None),
        ("a\nb", None),
        ("word", None),
    ],
)
def test_a_text_is_cut_behind_a_whole_word(text: str, kept: str | None) -> None:
    cut = safe_cut(text, len(text))

    assert cut == (len(kept) if kept else 0)


def test_a_text_is_not_cut_further_back_than_may_be() -> None:
    solid = "x" * (CUT_BACK_CHARS_MAX + 50)

    assert safe_cut(solid, len(solid)) is None
    assert safe_cut("a b" + solid, 1000) is None
    assert safe_cut("one two" + "," * 30, 10) is None
    assert safe_cut("", 0) == 0


@given(st.text(), st.integers(0, 400))
def test_what_is_cut_off_is_within_bounds(text: str, recent_chars: int) -> None:
    cut = safe_cut(text, min(recent_chars, len(text)))

    if cut:
        assert len(text) - cut <= min(CUT_BACK_CHARS_MAX, recent_chars)
        assert text[cut] == " "
        assert text[cut - 1].isalnum()
