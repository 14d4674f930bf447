"""The definitions in the docs are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.bench.analysis.definitions import BEGIN, END, NoSuchMeasureError, chapter, define, with_chapter
from penstock.bench.analysis.measures import MEASURES
from penstock.bench.analysis.result import VerdictKind

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


def test_the_definitions_in_the_docs_are_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert with_chapter(page) == page, "run tools/generate_reference.py"


def test_every_measure_and_verdict_is_in_the_chapter() -> None:
    text = chapter()

    assert [m.name for m in MEASURES if f"| `{m.name}` | " not in text] == []
    assert [kind for kind in VerdictKind if f"| `{kind}` | " not in text] == []


def test_what_stands_around_the_chapter_is_kept() -> None:
    page = f"# Load testing\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n"

    made = with_chapter(page)

    assert made == f"# Load testing\n\nbefore\n\n{chapter()}\n\nafter\n"
    assert with_chapter(made) == made
    assert with_chapter("# Load testing\n") == f"# Load testing\n\n{chapter()}\n"
    assert with_chapter("") == f"{chapter()}\n"


def test_a_definition_tells_what_others_call_it() -> None:
    text = define("tpot")

    assert text.startswith("tpot (TPOT, s): Time per output token")
    assert "aiperf: does not have it" in text
    assert "vLLM bench: tpot" in text


def test_an_unknown_measure_names_the_nearest() -> None:
    with pytest.raises(NoSuchMeasureError, match="did you mean ttft"):
        define("tftt")
    with pytest.raises(NoSuchMeasureError) as caught:
        define("qqq")

    assert "did you mean" not in caught.value.message
    assert "gap_max" in caught.value.hint
