"""The JSON of requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.workloads.bodies import Template
from penstock.bench.workloads.lengths import WorkloadError


def body(texts: list[str], **settings: Any) -> dict[str, Any]:
    return json.loads(Template("m", **settings).body(texts, 64))


def test_a_chat_asks_for_a_stream_with_usage() -> None:
    assert body(["hello"], ignore_eos=True) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 64,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_completion_has_a_prompt() -> None:
    assert body(["a", "b", "c"], chat=False)["prompt"] == "a\nb\nc"


def test_a_plain_answer_has_no_stream_options() -> None:
    made = body(["hello"], stream=False)

    assert made["stream"] is False
    assert "stream_options" not in made


def test_user_and_assistant_take_turns() -> None:
    roles = [message["role"] for message in body(["a", "b", "c"])["messages"]]

    assert roles == ["user", "assistant", "user"]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_arrives_as_it_is(texts: list[str]) -> None:
    assert [message["content"] for message in body(texts)["messages"]] == texts


def test_further_members_are_added_and_may_replace_the_temperature() -> None:
    made = body(["a"], extra={"temperature": 0.7, "chat_template_kwargs": {"thinking": False}})

    assert made["temperature"] == 0.7
    assert made["chat_template_kwargs"] == {"thinking": False}


@pytest.mark.parametrize("name", ["max_tokens", "stream", "messages", "n"])
def test_a_member_that_the_plan_sets_is_refused(name: str) -> None:
    with pytest.raises(WorkloadError, match=f"{name} is set by the plan"):
        Template("m", extra={name: 1})


def test_what_can_be_no_json_is_refused() -> None:
    with pytest.raises(WorkloadError, match=r"^extra: "):
        Template("m", extra={"seed": object()})
