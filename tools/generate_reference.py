"""Writes the generated pages: `penstock.example.toml`, `docs/reference/config.md`, a part of `docs/bench.md`, and
the units in `deploy/systemd`.
"""

from __future__ import annotations

from pathlib import Path

from penstock.bench.analysis.definitions import with_chapter
from penstock.core.config import Config
from penstock.core.config_reference import example_toml, reference_page
from penstock.render.systemd import Site, units

ROOT = Path(__file__).resolve().parent.parent
SITE = Site(command=Path("/opt/penstock/bin/penstock"), config=Path("/etc/penstock/penstock.toml"))


def main() -> None:
    """Writes the files and names them."""
    bench = ROOT / "docs" / "bench.md"
    for name, text in (
        ("penstock.example.toml", example_toml()),
        ("docs/reference/config.md", reference_page()),
        ("docs/bench.md", with_chapter(bench.read_text(encoding="utf-8"))),
        *((f"deploy/systemd/{name}", text) for name, text in units(Config(), SITE).items()),
    ):
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
