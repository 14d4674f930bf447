"""Distributions of lengths and of times."""

from __future__ import annotations

from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.workloads.lengths import (
    LENGTH_MAX,
    Lengths,
    WorkloadError,
    fixed,
    parse_lengths,
    parse_span,
)


def drawn(text: str, count: int = 2000) -> list[int]:
    lengths, random = parse_lengths(text), Random(1)
    return [lengths.draw(random) for _ in range(count)]


def test_a_number_is_always_that_length() -> None:
    assert set(drawn("128")) == {128}
    assert parse_lengths("128") == fixed(128)


def test_a_uniform_one_has_all_lengths_of_its_range() -> None:
    assert set(drawn("uniform:3-6")) == set(drawn("3-6")) == {3, 4, 5, 6}


def test_a_normal_one_is_cut_off_at_its_bounds() -> None:
    values = drawn("normal:512,64,500,520")

    assert min(values) == 500
    assert max(values) == 520


def test_a_normal_one_has_its_mean_and_deviation() -> None:
    values = drawn("normal:512,64")

    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    assert mean == pytest.approx(512, abs=5)
    assert deviation == pytest.approx(64, rel=0.1)


def test_a_lognormal_one_has_its_median() -> None:
    assert median(drawn("lognormal:512,0.6")) == pytest.approx(512, rel=0.05)


def test_a_file_is_drawn_from() -> None:
    lengths = parse_lengths(
        "file:l.txt", read=lambda path: ["# lengths", "7", "", "9"] if path == "l.txt" else []
    )

    assert {lengths.draw(Random(seed)) for seed in range(20)} == {7, 9}
    assert str(lengths) == "file:l.txt"
    assert lengths.longest == 9


def test_a_line_of_a_file_that_is_no_length_is_told_with_its_number() -> None:
    with pytest.raises(WorkloadError, match=r"l\.txt:2: '-3' is no whole number"):
        parse_lengths("file:l.txt", read=lambda _: ["7", "-3"])
    with pytest.raises(WorkloadError, match=r"l\.txt:1: a length should be 1 to"):
        parse_lengths("file:l.txt", read=lambda _: ["0"])
    with pytest.raises(WorkloadError, match=r"l\.txt holds no length"):
        parse_lengths("file:l.txt", read=lambda _: ["# nothing"])


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "x",
            "-5",
            "1.5",
            "0",
            "1,2",
            "1e9",
            "uniform:5",
            "uniform:9-3",
            "uniform:a-b",
            "normal:5",
            "normal:5,x",
        ],
        *["normal:nan,1", "fixed:inf", "lognormal:512,0.6,9", "lognormal:512,0.6,9,3", "zipf:3", "file:x"],
    ],
)
def test_what_is_no_distribution_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(WorkloadError, match=r"^--output-tokens: ") as caught:
        parse_lengths(text, "--output-tokens")
    assert "lognormal:512,0.6" in caught.value.hint or "file" in caught.value.message


numbers = st.integers(1, 10_000)


@given(
    st.one_of(
        st.builds(str, numbers),
        st.builds(lambda a, b: f"uniform:{min(a, b)}-{max(a, b)}", numbers, numbers),
        st.builds(lambda a, b: f"normal:{a},{b}", numbers, numbers),
        st.builds(lambda a, b, c, d: f"lognormal:{a},{b},{min(c, d)},{max(c, d)}", *[numbers] * 4),
    ),
    st.integers(),
)
def test_every_distribution_is_written_as_it_is_read_and_draws_within_its_bounds(
    text: str, seed: int
) -> None:
    lengths = parse_lengths(text)

    assert parse_lengths(str(lengths)) == lengths
    assert 1 <= lengths.draw(Random(seed)) <= lengths.longest <= LENGTH_MAX


@given(st.text(max_size=40))
def test_any_text_is_a_distribution_or_a_complaint(text: str) -> None:
    try:
        made = parse_lengths(text)
    except WorkloadError:
        return
    assert isinstance(made, Lengths)


def test_a_time_is_fixed_or_drawn_between_two() -> None:
    assert parse_span("500ms").draw(Random(1)) == 0.5
    assert all(0.5 <= parse_span("500ms-2s").draw(Random(seed)) <= 2.0 for seed in range(50))
    assert str(parse_span("500ms-2s")) == "0.5s-2s"


@pytest.mark.parametrize("text", ["", "2s-1s", "x", "1s-", "-1s", "48h", "1s-2s-3s"])
def test_what_is_no_time_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(WorkloadError, match=r"^--think: "):
        parse_span(text, "--think")
