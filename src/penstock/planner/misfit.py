"""Whether an engine as it is configured can't fit, told from exact sizes alone: no estimate may refuse a start."""

from __future__ import annotations

from penstock.planner.hardware import Gpu
from penstock.planner.plan import batch_tokens, gib
from penstock.planner.quantization import Method, weight_bytes
from penstock.planner.room import BLOCK_TOKENS, Terms, divides, sequence_bytes
from penstock.planner.shapes import Architecture


def misfit(
    model: Architecture,
    method: Method,
    gpu: Gpu,
    gpus: int,
    *,
    context: int,
    utilization: float,
    small_kv: bool,
) -> tuple[str, str]:
    """The engine argument that is at fault and a sentence with numbers; two empty texts where it may fit.

    Args:
        gpus: that share the model by tensor parallelism.
        context: tokens of a sequence.
        utilization: the part of a GPU's memory that the engine may take, 0 to 1.
        small_kv: whether the KV cache is fp8.
    """
    uneven = undivided(model, method, gpus)
    if uneven:
        return "tensor_parallel_size", uneven
    terms = Terms(context, 1, batch_tokens(gpu, method, context), utilization, 1 if small_kv else 2)
    budget, weights = int(gpu.memory_bytes * utilization), weight_bytes(model, method, gpus=gpus)
    there = f"{gib(budget)} of each {gpu.name} may be used"
    if weights >= budget:
        return "tensor_parallel_size", (
            f"with {gpus}, the weights take {gib(weights)} on each GPU, and {there}; set more GPUs, "
            "or name a quantized model"
        )
    needs = sequence_bytes(model, gpus, terms, context)
    if weights + needs <= budget:
        return "", ""
    return "max_model_len", (
        f"a sequence of {context} tokens takes {gib(needs)} of KV cache beside {gib(weights)} of weights on each GPU, "
        f"and {there}; set at most {_longest(model, gpus, terms, budget - weights)}, or more GPUs"
    )


def undivided(model: Architecture, method: Method, gpus: int) -> str:
    """Why `gpus` GPUs can't share the model by tensor parallelism, and how many can; empty where they can."""
    if divides(model, gpus, method):
        return ""
    fine = ", ".join(str(size) for size in range(1, 17) if divides(model, size, method))
    return (
        f"{gpus} does not divide {model.heads} attention heads, {model.kv_heads} KV heads and the MLP evenly; "
        f"set one of {fine}"
    )


def _longest(model: Architecture, gpus: int, terms: Terms, kv: int) -> int:
    """The longest sequence whose KV cache fits into `kv` bytes, in whole blocks."""
    low, high = 0, terms.context // BLOCK_TOKENS + 1
    while high - low > 1:
        middle = (low + high) // 2
        if sequence_bytes(model, gpus, terms, middle * BLOCK_TOKENS) <= kv:
            low = middle
        else:
            high = middle
    return low * BLOCK_TOKENS
