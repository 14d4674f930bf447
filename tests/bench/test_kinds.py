"""Kinds of prompts and their order."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.workloads.kinds import KINDS, Kind, mix_of, parse_mix
from penstock.bench.workloads.lengths import WorkloadError, fixed


def names(text: str, count: int, seed: int = 1) -> list[str]:
    return [kind.name for kind in islice(parse_mix(text).order(Random(seed)), count)]


def test_short_and_long_differ_in_the_answer_only() -> None:
    short, long = KINDS["short"], KINDS["long"]

    assert (short.output, long.output) == (fixed(64), fixed(256))
    assert short.prompt == long.prompt


def test_a_short_run_has_its_mix_exactly() -> None:
    assert Counter(names("short=0.7,long=0.3", 100)) == {"short": 70, "long": 30}


def test_a_rare_kind_comes_as_often_as_its_weight_says() -> None:
    assert Counter(names("short=99.7,long=0.3", 10_000))["long"] == 30


def test_the_order_is_the_seeds() -> None:
    assert names("short,long", 200, seed=5) == names("short,long", 200, seed=5)
    assert names("short,long", 200, seed=5) != names("short,long", 200, seed=6)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(0, 500), st.integers())
def test_at_any_time_each_kind_is_near_its_weight(weights: list[float], count: int, seed: int) -> None:
    mix = mix_of([(Kind(str(place), fixed(1), fixed(1)), weight) for place, weight in enumerate(weights)])

    got = Counter(kind.name for kind in islice(mix.order(Random(seed)), count))

    for kind, weight in zip(mix.kinds, mix.weights, strict=True):
        assert abs(got[kind.name] - weight * count) < 20 + len(weights)


def test_a_mix_is_written_as_it_is_read() -> None:
    assert str(parse_mix("short=7, long=3")) == "short=0.7,long=0.3"
    assert str(parse_mix("chat")) == "chat"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("shrt", "--mix: no kind of prompt is called 'shrt'", "did you mean short?"),
        ("", "--mix: no kind of prompt is called ''", "it is one of short, long, chat, rag, code"),
        ("short=x", "--mix: 'x' is no weight of short", "write short=0.7,long=0.3"),
        ("short=0", "--mix: the weight of short should be above 0, not 0", ""),
        ("short=nan", "--mix: the weight of short should be above 0, not nan", ""),
        ("short,short", "--mix: a kind is named twice: short, short", ""),
    ],
)
def test_what_is_no_mix_is_refused_with_what_is_wrong(text: str, message: str, hint: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        parse_mix(text, where="--mix")

    assert (caught.value.message, caught.value.hint) == (message, hint)
