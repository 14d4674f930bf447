from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.simulator.answers import VOCABULARY, Limits, answer
from penstock.simulator.tokens import TOKEN_ID_MAX, block_keys, pieces, text_of, token_ids


def test_short_words_are_one_token_each_and_long_ones_several():
    assert pieces(b"one two three") == [b"one", b" two", b" three"]
    assert pieces(b"a wonderful\n day") == [b"a", b" wonde", b"rful", b"\n", b" day"]


@given(st.text())
@settings(deadline=None)
def test_no_text_is_changed_by_becoming_token_ids(text):
    raw = text.encode("utf-8")

    assert b"".join(pieces(raw)) == raw
    assert text_of(token_ids(raw)) == raw


def test_an_id_that_no_token_has_is_refused():
    with pytest.raises(ValueError, match="out of range"):
        text_of([TOKEN_ID_MAX + 1])


@given(st.lists(st.sampled_from([b"a", b"b", b" c"]), max_size=40), st.integers(1, 6), st.integers(0, 40))
@settings(deadline=None)
def test_keys_agree_exactly_as_far_as_the_tokens_do(tokens, size, changed_at):
    other = [*tokens[:changed_at], b" x", *tokens[changed_at + 1 :]]

    keys, other_keys = block_keys(tokens, size), block_keys(other, size)

    assert len(keys) == len(tokens) // size
    same = sum(1 for one, two in zip(keys, other_keys, strict=False) if one == two)
    assert same == min(changed_at // size, len(keys), len(other_keys))


def test_every_word_of_the_vocabulary_is_one_token():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 256
    assert all(len(pieces(word)) == len(pieces(word[1:])) == 1 for word in VOCABULARY)


@given(st.binary(max_size=60), st.integers(1, 80), st.data())
@settings(deadline=None)
def test_an_answer_goes_on_with_its_own_rest(context, length, data):
    whole = answer(context, Limits(length, mean_tokens=30))
    kept = data.draw(st.integers(0, len(whole.tokens) - 1))

    part = b"".join(whole.tokens[:kept])
    rest = answer(context + part, Limits(length - kept, mean_tokens=30))

    assert rest.tokens == whole.tokens[kept:]
    assert rest.finish_reason == whole.finish_reason


@given(
    st.binary(max_size=20),
    st.integers(1, 60),
    st.lists(st.sampled_from(["e", "a", "i", "a c", "ri", ". "]), max_size=3),
)
@settings(deadline=None)
def test_an_answer_never_contains_a_stop_text(context, length, stop):
    free = answer(context, Limits(length))
    stopped = answer(context, Limits(length, stop=tuple(stop)))

    assert free.text.startswith(stopped.text)
    assert not any(text in stopped.text for text in stop)
    assert (stopped.finish_reason == "stop") == any(text in free.text for text in stop)
    assert len(stopped.deltas) == len(stopped.tokens) <= length


@given(st.binary(max_size=20), st.integers(1, 50), st.integers(0, 50))
@settings(deadline=None)
def test_an_answer_keeps_its_limits(context, most, least):
    said = answer(context, Limits(most, min(least, most), mean_tokens=5))

    assert len(said.tokens) <= most
    assert len(said.tokens) >= min(least, most)
    assert (said.finish_reason == "length") == (said.tokens[-1] != b"")
