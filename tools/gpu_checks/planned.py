"""The plan against the memory that a model of real size really takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_checks.row import Row, info, judged, skipped
from penstock.cli.plan_text import plan_json
from penstock.engines.model_files import describe
from penstock.planner.hardware import Gpu
from penstock.planner.plan import Ask, plan

PART = "plan"
WITHIN = 0.02
"""The plan may be this far off what is measured."""

MINUTES_MAX = 8
BYTES_OF_LAYER = 436_224_000  # of Llama 3.1 8B in 16 bits
LAYERS_MIN, LAYERS_MAX = 2, 32
SHARE_OF_GPU = 0.3
"""Of the GPU's free memory: two replicas fit, with their caches."""


def check(gpu: Gpu, folder: Path, python: Path) -> Iterator[Row]:
    """Makes the model in `folder`, plans it, and measures it; a small one, without CUDA.

    Args:
        python: that has PyTorch and Transformers.
    """
    device = _run(python, "device")
    if "lacks" in device:
        yield skipped(PART, "a model of real size", f"{python} has no {device['lacks']}")
        return
    layers = max(LAYERS_MIN, min(LAYERS_MAX, int(gpu.free_bytes * SHARE_OF_GPU / BYTES_OF_LAYER)))
    if device["device"] != "cuda":
        layers = LAYERS_MIN
        yield skipped(PART, "memory that CUDA gives out", "PyTorch finds no GPU: tensors are counted")
    made = _run(python, "make", str(folder), str(layers))
    described = describe(str(folder))
    planned = plan_json(described, plan(described.architecture, Ask(gpu, 1)))
    measured = _run(python, "measure", str(folder))
    yield info(PART, "model", f"{layers} layers of Llama 3.1 8B, {made['parameters']:,} parameters")
    yield _compared("parameters", planned["model"]["parameters"], made["parameters"], within=0.0)
    yield _compared("weights, bytes", planned["plan"]["weights_bytes"], measured["weights_bytes"])
    yield _compared(
        "KV cache, bytes of a token", planned["plan"]["kv_bytes_per_token"], measured["kv_bytes_per_token"]
    )


def _compared(what: str, planned: float, measured: float, within: float = WITHIN) -> Row:
    off = abs(planned - measured) / measured
    seen = f"planned {planned:,.0f}, measured {measured:,.0f} ({off:.2%} off)"
    return judged(PART, what, seen, f"within {within:.0%}", off <= within)


def _run(python: Path, *arguments: str) -> dict[str, Any]:
    script = Path(__file__).with_name("random_model.py")
    done = subprocess.run(
        [str(python), str(script), *arguments], capture_output=True, text=True, timeout=60 * MINUTES_MAX
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
