"""Paths as people write them, and that of the model which Penstock brings along."""

from __future__ import annotations

from pathlib import Path

import penstock

CONFIG_NAME = "config.json"
"""What says of a folder that a Hugging Face model is in it."""

DEMO_FOLDER = Path(penstock.__file__).parent / "demo_model"


def path_of(text: str | Path) -> Path:
    """The path that `text` names, `~` for a home; that of a user who is not known here is taken as it is written."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
