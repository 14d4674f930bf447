"""What is remembered of a stream: the whole text, whatever the engine's style and wherever it was compacted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.delivered import RAW_READS_MAX, RECENT_MAX, TEXTS_MAX, Delivered
from penstock.wire.sse import COMMENT, DONE, event


def chat(delta: dict[str, Any], finish: str | None = None, **members: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event(json.dumps({"id": "c-1", "created": 7, "choices": [choice], **members}).encode())


def completion(text: str) -> bytes:
    return event(json.dumps({"id": "c-1", "created": 7, "choices": [{"index": 0, "text": text}]}).encode())


ROLE = chat({"role": "assistant", "content": ""})


def remember(*events: bytes, every: int = 0) -> Delivered:
    """What remembers these; compacted after each `every` events, or when there are enough."""
    delivered = Delivered()
    for number, one in enumerate(events, start=1):
        take(delivered, one)
        if every and number % every == 0:
            delivered.compact()
    return delivered


def take(delivered: Delivered, events: bytes) -> None:
    if not add(delivered, events):
        delivered.keep(events)


def add(delivered: Delivered, events: bytes) -> bool:
    return delivered.add(b"%x\r\n%b\r\n" % (len(events), events), len(events))


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))), every=st.integers(0, 5))
def test_the_text_is_whole_wherever_it_was_compacted(texts: list[str], every: int) -> None:
    for make in (lambda text: chat({"content": text}), completion):
        answer = remember(ROLE, *map(make, texts), every=every).answer()

        assert answer.text == "".join(texts)
        assert answer.text.endswith("".join(answer.recent))
        assert answer.tokens >= sum(bool(text) for text in texts)
        assert answer.obstacle == ""


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)))
def test_several_events_in_one_read_are_told_apart(reads: list[list[str]]) -> None:
    delivered = remember(ROLE, chat({"content": "a"}), every=1)
    for texts in reads:
        take(delivered, b"".join(chat({"content": text}) for text in texts))

    answer = delivered.answer()

    assert answer.text == "a" + "".join(map("".join, reads))
    assert answer.tokens >= 1 + sum(map(len, reads))


def test_a_long_answer_is_remembered_in_little_room() -> None:
    delivered = remember(ROLE, *(chat({"content": f" {number}"}) for number in range(3000)))

    answer = delivered.answer()

    assert answer.text == "".join(f" {number}" for number in range(3000))
    assert answer.tokens == 3000
    assert len(answer.recent) <= RECENT_MAX * (TEXTS_MAX + 1)
    assert answer.text.endswith("".join(answer.recent))


def test_an_open_stream_holds_hardly_more_than_the_limit() -> None:
    delivered = Delivered()
    for number in range(3000):
        take(delivered, chat({"content": f" {number}"}))

        assert len(delivered.raw) <= RAW_READS_MAX
        assert len(delivered._texts) <= TEXTS_MAX


def test_a_read_is_added_only_where_it_is_one_more_event_of_the_same_frame() -> None:
    delivered = remember(ROLE, chat({"content": "a"}), every=1)
    text = chat({"content": "b"})
    before, behind = text.split(b'b"}', 1)
    behind = b'"}' + behind

    assert add(delivered, text)
    assert add(delivered, chat({"content": ""}))
    for other in (
        text + text,
        chat({"content": "b"}, finish="stop"),
        chat({"content": "b"}, usage={"prompt_tokens": 1}),
        chat({"content": "b", "tool_calls": [{}]}),
        chat({"content": 'b"'}),
        before + b"b\n\ndata: [DONE]\n\n" + behind,
        before + b'b"},"finish_reason":"abort","x":{"y":"' + behind,
        before[:-1] + behind,
        text[:-1],
        text + b"d",
        DONE,
        COMMENT,
    ):
        assert not add(delivered, other), other
    assert delivered.answer().text == "ab"


def test_what_was_added_and_what_was_kept_stay_in_order() -> None:
    delivered = remember(ROLE, chat({"content": "a"}), every=1)
    for one in (
        chat({"content": "b"}),
        chat({"content": '"c'}),
        chat({"content": "d"}),
        chat({"content": "e"}),
    ):
        take(delivered, one)

    assert delivered.answer().text == 'ab"cde'


def test_an_added_text_that_is_no_json_can_not_be_continued() -> None:
    delivered = remember(ROLE, chat({"content": "a"}), every=1)
    take(delivered, chat({"content": "b"}).replace(b"b", b"\\"))

    assert delivered.answer().obstacle == "an event that is no chunk"


def test_text_that_looks_like_json_is_text() -> None:
    texts = ['"', '"}}]}\n\ndata: {"content":"', "\\", '\\"', "\u2028", "é", "😀", '{"finish_reason":"stop"}']

    answer = remember(*(chat({"content": text}) for text in texts * 40), every=8).answer()

    assert answer.text == "".join(texts * 40)
    assert answer.finish_reason is None


def test_a_sign_in_two_halves_is_whole() -> None:
    half = chat({"content": "HALF"})
    events = [half.replace(b"HALF", b"a")] * 3
    events += [half.replace(b"HALF", rb"\ud83d"), half.replace(b"HALF", rb"\ude00")]

    answer = remember(*events[:2], *events[2:]).answer()

    assert answer.obstacle or answer.text == "aaa😀"


def test_an_engine_that_changes_its_style_is_understood() -> None:
    events = [chat({"content": " a"}, created=second) for second in range(5) for _ in range(9)]

    answer = remember(ROLE, *events, every=4).answer()

    assert (answer.text, answer.tokens, answer.created) == (" a" * 45, 45, 7)


def test_who_speaks_and_how_it_ended_are_known() -> None:
    begun = remember(ROLE, chat({"content": "a"})).answer()
    ended = remember(ROLE, chat({"content": "a"}), COMMENT, chat({}, "stop"), DONE).answer()

    assert (begun.role, begun.finish_reason, begun.id, begun.created) == (True, None, "c-1", 7)
    assert ended.finish_reason == "stop"


def test_an_event_of_several_words_counts_as_many() -> None:
    answer = remember(chat({"content": " one two three"}), chat({"content": " four"})).answer()

    assert (answer.tokens, answer.joined) == (4, True)


def test_events_of_one_word_each_are_a_token_each() -> None:
    answer = remember(
        ROLE, chat({"content": "one"}), chat({"content": " two"}), chat({"content": "ty"})
    ).answer()

    assert (answer.tokens, answer.joined) == (3, False)


@pytest.mark.parametrize(
    ("odd", "obstacle"),
    [
        (chat({"tool_calls": [{"index": 0}]}), "tool_calls"),
        (chat({"reasoning_content": "hm"}), "reasoning_content"),
        (chat({"reasoning": "hm"}), "reasoning"),
        (chat({"refusal": "no"}), "refusal"),
        (event(b'{"choices":[{"index":1,"delta":{"content":"b"}}]}'), "several choices"),
        (event(b'{"choices":[{"index":0,"delta":{"content":"b"},"logprobs":{"content":[]}}]}'), "logprobs"),
        (event(b'{"choices":[{"index":0,'), "an event that is no chunk"),
    ],
)
def test_what_is_not_the_text_of_one_answer_is_noticed(odd: bytes, obstacle: str) -> None:
    plain = [chat({"content": "a"})] * 5

    assert remember(*plain, odd, *plain, every=3).answer().obstacle == obstacle
