"""The text of prompts, and how far two are the same."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.workloads.calibration import ANCHOR, CANDIDATES, Calibration
from penstock.bench.workloads.lengths import WorkloadError
from penstock.bench.workloads.prompts import BLOCK_TOKENS, POOL_WORDS, Cache, Texts

TEXTS = Texts(Calibration(), "salt")


def common_words(one: str, other: str) -> int:
    """How many words two texts begin with both."""
    pairs = zip(one.split(), other.split(), strict=False)
    return next(
        (place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.split()), len(other.split()))
    )


@given(st.integers(0, 3000), st.text(max_size=20))
def test_a_stretch_has_as_many_words_as_it_should(words: int, key: str) -> None:
    text = TEXTS.stretch(key, words)

    assert len(text.split()) == words
    assert text.count(" ") == words
    assert set(text.split()) <= set(CANDIDATES)


@given(st.integers(0, 2000), st.integers(0, 2000), st.text(max_size=20))
def test_a_shorter_stretch_of_a_key_is_the_beginning_of_a_longer_one(one: int, other: int, key: str) -> None:
    short, long = sorted((one, other))

    assert TEXTS.stretch(key, long).startswith(TEXTS.stretch(key, short))


def test_a_stretch_may_be_longer_than_the_text_that_it_is_cut_from() -> None:
    assert len(TEXTS.stretch("long", 3 * POOL_WORDS).split()) == 3 * POOL_WORDS


def test_prompts_differ_from_their_first_words_on() -> None:
    texts = [TEXTS.unique(index, 64) for index in range(1000)]

    assert max(common_words(one, other) for one, other in combinations(texts[:200], 2)) <= 4
    assert len({text[:60] for text in texts}) == 1000
    assert len({text[-120:] for text in texts}) > 950


def test_another_salt_makes_other_prompts_of_the_same_length() -> None:
    one, other = TEXTS.unique(0, 64), Texts(Calibration(), "pepper").unique(0, 64)

    assert common_words(one, other) <= 4
    assert len(one.split()) == len(other.split())


def test_the_same_salt_makes_the_same_prompts() -> None:
    assert Texts(Calibration(), "salt").unique(3, 500) == TEXTS.unique(3, 500)


def test_prompts_of_a_group_share_as_many_words_as_they_should() -> None:
    one, other = TEXTS.shared(0, 5, 80, 100), TEXTS.shared(1, 5, 80, 100)

    assert 81 <= common_words(one, other) <= 84
    assert one.split()[0] == ANCHOR


def test_prompts_of_different_groups_share_nothing() -> None:
    assert common_words(TEXTS.shared(0, 5, 80, 100), TEXTS.shared(0, 6, 80, 100)) <= 4


def test_equal_blocks_are_equal_text_and_the_last_one_may_be_cut() -> None:
    one, other = TEXTS.blocks(0, (1, 2, 3), 1100), TEXTS.blocks(1, (1, 2, 9), 1100)

    assert 1 + 2 * BLOCK_TOKENS <= common_words(one, other) <= 4 + 2 * BLOCK_TOKENS
    assert len(one.split()) == 1101


def test_what_no_block_covers_is_a_prompts_own() -> None:
    one, other = TEXTS.blocks(0, (1,), 1000), TEXTS.blocks(1, (1,), 1000)

    assert 1 + BLOCK_TOKENS <= common_words(one, other) <= 4 + BLOCK_TOKENS


def test_too_few_words_to_tell_prompts_apart_are_refused() -> None:
    with pytest.raises(WorkloadError, match="only 3 words are one token each"):
        Texts(Calibration(words=("a", "b", "c")), "salt")


@pytest.mark.parametrize(
    ("share", "groups"), [(-0.1, 1), (1.1, 1), (float("nan"), 1), (0.5, 0), (0.5, 10**9)]
)
def test_a_cache_that_makes_no_sense_is_refused(share: float, groups: int) -> None:
    with pytest.raises(WorkloadError):
        Cache.checked(share, groups)


def test_what_a_cache_may_find_is_said_in_words() -> None:
    assert Cache().describe().startswith("Cache-busting: each prompt begins with words of its own")
    assert "80% of each prompt is one of 4 beginnings" in Cache.checked(0.8, 4).describe()
