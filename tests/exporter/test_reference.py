"""The reference of the exporter's metrics is what the code says."""

from __future__ import annotations

from pathlib import Path

from penstock.exporter.exporter import METRICS
from penstock.exporter.reference import exporter_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "exporter.md"


def test_the_page_is_generated_from_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == exporter_page(), "run tools/generate_reference.py"


def test_the_page_has_every_metric() -> None:
    assert all(f"| `{metric.name}` |" in exporter_page() for metric in METRICS)
