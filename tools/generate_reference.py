"""Writes the generated pages of the configuration: `penstock.example.toml` and `docs/reference/config.md`."""

from __future__ import annotations

from pathlib import Path

from penstock.core.config_reference import example_toml, reference_page

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Writes both files and names them."""
    for name, text in (
        ("penstock.example.toml", example_toml()),
        ("docs/reference/config.md", reference_page()),
    ):
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
