"""Writes the generated pages: `penstock.example.toml`, `docs/reference/config.md`, and a part of `docs/bench.md`."""

from __future__ import annotations

from pathlib import Path

from penstock.bench.analysis.definitions import with_chapter
from penstock.core.config_reference import example_toml, reference_page
from penstock.exporter.reference import exporter_page

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Writes the files and names them."""
    bench = ROOT / "docs" / "bench.md"
    for name, text in (
        ("penstock.example.toml", example_toml()),
        ("docs/reference/config.md", reference_page()),
        ("docs/reference/exporter.md", exporter_page()),
        ("docs/bench.md", with_chapter(bench.read_text(encoding="utf-8"))),
    ):
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
