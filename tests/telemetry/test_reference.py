"""The reference page of metrics follows the code."""

from __future__ import annotations

from pathlib import Path

from penstock.telemetry.catalog import CATALOG
from penstock.telemetry.reference import metrics_page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    on_disk = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")

    assert on_disk == metrics_page(), "run tools/generate_reference.py"


def test_the_page_has_every_family() -> None:
    page = metrics_page()

    assert all(f"`{family.name}`" in page for _, group in CATALOG for family in group)
