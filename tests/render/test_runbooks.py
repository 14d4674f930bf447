"""Every alert has a page that helps: it says what is meant, and what to type; and what it says to type is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.render.test_names import RECORDS, shown
from tools.generate_reference import runbooks

from penstock.cli.app import COMMANDS
from penstock.render.alerts import ALERTS
from penstock.render.runbook import INDEX

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"
SECTIONS = ("Meaning", "Impact", "Diagnosis", "Mitigation")
PAGES = sorted({alert.page for alert in ALERTS})


def test_heads_and_index_are_up_to_date() -> None:
    on_disk = {name: (FOLDER.parents[1] / name).read_text(encoding="utf-8") for name in runbooks()}

    assert on_disk == runbooks(), "run tools/generate_reference.py"


def test_there_is_no_page_without_an_alert() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {INDEX, *PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_it_means_and_what_to_do(page: str) -> None:
    text = (FOLDER / page).read_text()

    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.partition("\n")[0] for part in parts] == list(SECTIONS)
    assert all(part.partition("\n")[2].strip() for part in parts)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_to_type_exists(page: str) -> None:
    text = (FOLDER / page).read_text()

    commands = set(re.findall(r"(?:^ {4}|`)penstock ([a-z]+)", text, flags=re.MULTILINE))
    assert commands <= set(COMMANDS)
    names = set(re.findall(r"\b(?:penstock_[a-z0-9_]+|llm:[a-z0-9_:]+|vllm:[a-z0-9_:]+)\b", text))
    assert names <= {*shown(), *RECORDS}
    links = re.findall(r"\]\((\w+\.md)\)", text)
    assert set(links) <= {*PAGES, INDEX}
