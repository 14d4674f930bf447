"""Where one stream goes on with the answer of another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.delivered import Answer
from penstock.wire.joint import DivergedError, Joint
from penstock.wire.sse import event, event_data

ANSWER = Answer(
    text="The gate",
    tokens=2,
    recent=("The", " gate"),
    id="c-1",
    created=7,
    role=True,
    finish_reason=None,
    obstacle="",
)


def chunk(content: str | None = None, finish: str | None = None, **members: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event(json.dumps({"id": "c-2", "created": 9, "choices": [choice], **members}).encode())


def take(joint: Joint, *events: bytes) -> list[Any]:
    taken = [joint.take(one, event_data(one)) for one in events]
    return [json.loads(event_data(one)) for one in taken if one]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])


def test_events_get_the_first_streams_id_and_time_and_keep_the_rest() -> None:
    (made,) = take(Joint(ANSWER), chunk(" is", model="m", system_fingerprint="f"))

    assert (made["id"], made["created"], made["model"], made["system_fingerprint"]) == ("c-1", 7, "m", "f")
    assert text_of([made]) == " is"


def test_a_stream_without_id_stays_without() -> None:
    bare = event(b'{"choices":[{"index":0,"delta":{"content":" is"}}]}')

    assert Joint(ANSWER).take(bare, event_data(bare)) == bare


def test_a_second_role_is_left_out() -> None:
    role = event(b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}')
    spoken = event(b'{"choices":[{"index":0,"delta":{"role":"assistant","content":" is"}}]}')

    assert take(Joint(ANSWER), role) == []
    assert take(Joint(ANSWER), spoken)[0]["choices"][0]["delta"] == {"content": " is"}


@given(st.lists(st.text(max_size=5)), st.integers(0, 40))
def test_what_is_repeated_is_withheld_however_it_is_cut(pieces: list[str], length: int) -> None:
    whole = "".join(pieces)
    repeats = whole[:length]
    joint = Joint(ANSWER, repeats=repeats)

    made = take(joint, *(chunk(piece) for piece in pieces))
    joint.end()

    assert text_of(made) == whole[len(repeats) :]


@pytest.mark.parametrize(
    ("before", "turn"),
    [
        ([], chunk(" shut")),
        ([chunk(" op")], chunk("al")),
        ([], chunk(" op", "stop")),
        ([chunk(" op")], chunk(None, "stop")),
    ],
)
def test_another_answer_is_noticed_before_any_of_it_is_shown(before: list[bytes], turn: bytes) -> None:
    joint = Joint(ANSWER, repeats=" open")

    shown = take(joint, *before)

    assert shown == []
    with pytest.raises(DivergedError):
        joint.take(turn, event_data(turn))


def test_a_stream_that_ends_before_it_has_repeated_all_is_another_answer() -> None:
    joint = Joint(ANSWER, repeats=" open")
    take(joint, chunk(" op"))

    with pytest.raises(DivergedError):
        joint.end()


def test_tokens_of_both_are_added_up() -> None:
    last = event(b'{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17}}')

    (made,) = take(Joint(ANSWER, kept_tokens=2), last)
    (told,) = take(Joint(ANSWER, kept_tokens=2, prompt_tokens=9), last)

    assert made["usage"] == {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    assert told["usage"] == {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}


def test_an_ending_and_what_is_no_chunk_are_passed_on() -> None:
    joint = Joint(ANSWER)
    odd = event(b'{"choices":3}')

    assert take(joint, chunk(None, "stop"))[0]["choices"][0]["finish_reason"] == "stop"
    assert joint.take(odd, event_data(odd)) == odd
