"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def path_of(text: str | Path) -> Path:
    """The path that `text` names, `~` for a home; that of a user who is not known here is taken as it is written."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
