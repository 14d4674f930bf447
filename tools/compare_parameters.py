"""Compares the planner's parameter counts with the modules that transformers builds of the same configurations.

    python -m venv /tmp/tf && /tmp/tf/bin/pip install torch transformers
    PYTHONPATH=src /tmp/tf/bin/python tools/compare_parameters.py [NAME...]

Prints a line for each configuration in tests/planner/configs; exits 1 where one differs. Nothing is downloaded, and no
weight is made: modules are built on the `meta` device. DeepSeek-V3 and GLM 4.5 differ by their correction biases, which
are buffers there; Kimi K2 is not known there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from penstock.planner.architecture import read_config

FOLDER = Path(__file__).parent.parent / "tests" / "planner" / "configs"
NOT_OF_THE_CLASS = ("model_type", "torch_dtype", "quantization_config")


def main(names: list[str]) -> int:
    """The number of configurations that differ, at most 1."""
    paths = [path for path in sorted(FOLDER.glob("*.json")) if not names or path.stem in names]
    return int(sum(not compare(path) for path in paths) > 0)


def compare(path: Path) -> bool:
    """Whether both counts are the same; prints them."""
    text = path.read_text()
    planned = read_config(text, path.name).parameters
    try:
        built: object = count(json.loads(text))
    except (ValueError, RuntimeError) as error:
        built = str(error)[:80]
    print("same" if built == planned else "DIFFERENT", path.stem, planned, built, flush=True)
    return built == planned


def count(values: dict[str, Any]) -> int:
    """Parameters of the module; tied ones once."""
    members = {name: value for name, value in values.items() if name not in NOT_OF_THE_CLASS}
    config = AutoConfig.for_model(values["model_type"], **members)
    kind = AutoModelForImageTextToText if "vision_config" in values else AutoModelForCausalLM
    with torch.device("meta"):
        module = kind.from_config(config)
    module.tie_weights()
    return sum(one.numel() for one in {id(one): one for one in module.parameters()}.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
