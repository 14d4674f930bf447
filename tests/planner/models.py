"""Configurations of published models, as their config.json has them, without what sizes do not depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.planner.architecture import read_config
from penstock.planner.shapes import Architecture

FOLDER = Path(__file__).parent / "configs"
TOTALS: dict[str, dict[str, Any]] = json.loads((FOLDER.parent / "totals.json").read_text())
"""Parameters of each, counted on the modules that transformers 5.24 builds of it (`meta` device, torch 2.13);
`published` says where the same number is published. Those of DeepSeek-V3 and GLM 4.5 have their correction biases
besides (14,848 and 5,760), which transformers has as buffers; Kimi K2, which it does not know, is only published."""


def model(name: str, **changes: object) -> Architecture:
    """The architecture of the model `name`, with some members of its configuration changed."""
    values = json.loads((FOLDER / f"{name}.json").read_text()) | changes
    return read_config(json.dumps(values), f"{name}/config.json")
