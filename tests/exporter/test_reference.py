"""The reference of the exporter's metrics is what the code says."""

from __future__ import annotations

from pathlib import Path

from penstock.exporter.exporter import CATALOG
from penstock.exporter.reference import exporter_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "exporter.md"


def test_the_page_is_generated_from_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == exporter_page(), "run tools/generate_reference.py"


def test_names_are_unique_have_a_text_and_follow_the_rules() -> None:
    families = [family for _, group in CATALOG for family in group]

    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert f"| `{family.name}` |" in exporter_page()
        assert family.name.startswith(("penstock_gpu_", "penstock_host_", "penstock_exporter_", "llm_"))
        assert family.name.endswith("_total") is (family.kind == "counter"), family.name
        assert family.text.endswith("."), family.name
