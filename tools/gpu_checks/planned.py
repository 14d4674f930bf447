"""The plan against the memory that a model of real size really takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

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


def check(gpu: Gpu, folder: Path) -> Iterator[Row]:
    """Makes the model in `folder`, plans it, and measures it; a small one, without CUDA."""
    lacks = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if lacks:
        yield skipped(PART, "a model of real size", f"needs {' and '.join(lacks)}, not installed here")
        return
    layers = max(LAYERS_MIN, min(LAYERS_MAX, int(gpu.free_bytes * SHARE_OF_GPU / BYTES_OF_LAYER)))
    if not _has_cuda():
        layers = LAYERS_MIN
        yield skipped(
            PART,
            "memory that CUDA gives out",
            "PyTorch finds no GPU: tensors are counted",
        )
    made = _run("make", str(folder), str(layers))
    described = describe(str(folder))
    planned = plan_json(described, plan(described.architecture, Ask(gpu, 1)))
    measured = _run("measure", str(folder))
    yield info(PART, "model", f"{layers} layers of Llama 3.1 8B, {made['parameters']:,} parameters")
    yield _compared("parameters", planned["model"]["parameters"], made["parameters"], within=0.0)
    yield _compared("weights, bytes", planned["plan"]["weights_bytes"], measured["weights_bytes"])
    yield _compared(
        "KV cache, bytes of a token", planned["plan"]["kv_bytes_per_token"], measured["kv_bytes_per_token"]
    )


def _has_cuda() -> bool:
    import torch

    found: bool = torch.cuda.is_available()
    return found


def _compared(what: str, planned: float, measured: float, within: float = WITHIN) -> Row:
    off = abs(planned - measured) / measured
    seen = f"planned {planned:,.0f}, measured {measured:,.0f} ({off:.2%} off)"
    return judged(PART, what, seen, f"within {within:.0%}", off <= within)


def _run(*arguments: str) -> dict[str, float]:
    script = Path(__file__).with_name("random_model.py")
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60 * MINUTES_MAX,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
