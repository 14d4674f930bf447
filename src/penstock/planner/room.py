"""What is left for the KV cache on one GPU, and how much of it tokens and sequences take.

Weights and KV cache are exact. The rest is estimated; docs/plan.md compares it with what engines logged:

- The runtime sees less memory than the driver reports: `RUNTIME_BYTES` or `RUNTIME_SHARE`, whichever is more. Seen in
  logs of vLLM: 14.56 of 15.0 GiB (T4), 22.07 of 22.49 (A10G, L4), 23.58 of 24.0 (RTX 3090), 79.22 of 80.0 (A100).
- Activations: one batch of tokens in the widest layer, `3 x inner + 4 x hidden` elements of 16 bits a token (gate, up
  and their product; residual, normed input, attention's output and its projection), and two sets of 32-bit logits, one
  row for each sequence.
- Outside of PyTorch: NCCL's buffers and libraries' work space; logs of vLLM show 0.05 to 0.16 GiB on one GPU, and
  0.2 to 0.25 where several work together.
- CUDA graphs: logs of vLLM show 0.1 to 0.75 GiB.
- llama.cpp's compute buffer, for each token of a batch: 32-bit logits, or the MLP where that is wider, and three times
  the residual stream; and a 16-bit mask over the context. It logs 30.07 MiB for the demo model with batches of 2048
  (30.0 by this), and 258.5 for Llama 3 8B with batches of 512 on a GPU (282; the mask is kept elsewhere there).
- In RAM: its process, and the prompts that it keeps (`CACHE_RAM_MIB` of `engines/llamacpp_server.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from penstock.planner.hardware import GIB, Gpu
from penstock.planner.quantization import GROUP, Method, weight_bytes
from penstock.planner.shapes import Architecture, KvLayers, share

RUNTIME_BYTES = 450 * 2**20
RUNTIME_SHARE = 0.01
ALONE_BYTES = GIB // 5
TOGETHER_BYTES = 2 * GIB // 5
GRAPH_BYTES = GIB // 2
ACTIVATION_BYTES = 2
LOGIT_BYTES = 2 * 4
LAYERED_BYTES, MASK_BYTES = 4, 2
RAM_RUNTIME_BYTES = (256 + 512) * 2**20
STATE_BYTES = 4

Q8_0_BYTES = 34 / 32
"""Of an element of llama.cpp's smaller KV cache, with its part of a scale."""

STEPS_IN_FLIGHT = 2
"""vLLM schedules one step while another is computed (0.32, `VllmConfig.max_in_flight_tokens`)."""

GROUPED_AS_MOST = 1.5
"""Kinds of layers that differ in number by less are grouped as the larger."""

BLOCK_TOKENS = 16
"""Of vLLM's KV cache on a GPU."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How an engine is to run.

    Args:
        context: tokens that a sequence may have, prompt and answer, at least 1.
        sequences: that run at once at most, at least 1.
        batch_tokens: that are computed in one step at most.
        utilization: the part of a GPU's memory that it may take, 0 to 1.
        kv_bytes: of one element of the KV cache: 2, 1 with fp8, or `Q8_0_BYTES`.
        layered: whether several GPUs divide the model by layers (llama.cpp) instead of within each (vLLM).
        graphs: whether CUDA graphs are captured.
        steps: of which the tokens are in flight at once.
        block_tokens: of the KV cache; a sequence takes whole blocks.
    """

    context: int
    sequences: int
    batch_tokens: int
    utilization: float
    kv_bytes: float = 2
    layered: bool = False
    graphs: bool = True
    steps: int = STEPS_IN_FLIGHT
    block_tokens: int = BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of the fullest of some GPUs that serve one model together, in bytes.

    Args:
        gpus: that share it.
        budget: that the engine may take.
        weights: of the model.
        activations: of one batch, an estimate.
        graphs: CUDA graphs, an estimate.
        runtime: libraries and communication, an estimate.
        kv: left for the KV cache; 0 or less where nothing is.
        token: what one more token takes, where no window ends the growth.
        sequence: what a sequence of the whole context takes.
        context: tokens of that.
    """

    gpus: int
    budget: int
    weights: int
    activations: int
    graphs: int
    runtime: int
    kv: int
    token: int
    sequence: int
    context: int

    @property
    def sequences(self) -> int:
        """Sequences of the whole context that fit at once."""
        return max(0, self.kv // self.sequence)

    @property
    def tokens(self) -> int:
        """Tokens that fit in sequences of the whole context, the last of them in part."""
        return max(0, self.kv * self.context // self.sequence)


def room(model: Architecture, way: Method, gpu: Gpu, gpus: int, terms: Terms) -> Room:
    """What there is on each of `gpus` GPUs that serve the model together."""
    weights = _weights(model, way, gpus, terms)
    activations = _activations(model, gpus, terms)
    runtime = RAM_RUNTIME_BYTES if gpu.ram else ALONE_BYTES if gpus == 1 else TOGETHER_BYTES
    graphs = GRAPH_BYTES if terms.graphs else 0
    budget = min(int(visible_bytes(gpu) * terms.utilization), gpu.free_bytes)
    return Room(
        gpus=gpus,
        budget=budget,
        weights=weights,
        activations=activations,
        graphs=graphs,
        runtime=runtime,
        kv=budget - weights - activations - runtime - graphs,
        token=token_bytes(model, gpus, terms),
        sequence=sequence_bytes(model, gpus, terms, terms.context),
        context=terms.context,
    )


def _activations(model: Architecture, gpus: int, terms: Terms) -> int:
    wide = 3 * (model.inner if terms.layered else -(-model.inner // gpus)) + 4 * model.hidden
    if terms.layered:
        wide = max(wide, model.vocabulary + 3 * model.hidden)
        return terms.batch_tokens * (wide * LAYERED_BYTES + terms.context * MASK_BYTES)
    logits = min(terms.sequences, terms.batch_tokens) * model.vocabulary * LOGIT_BYTES
    return terms.batch_tokens * wide * ACTIVATION_BYTES + logits


def visible_bytes(gpu: Gpu) -> int:
    """What programs can have of a memory: CUDA takes some of a GPU's."""
    if gpu.ram:
        return gpu.memory_bytes
    return gpu.memory_bytes - max(RUNTIME_BYTES, round(gpu.memory_bytes * RUNTIME_SHARE))


def token_bytes(model: Architecture, gpus: int, terms: Terms) -> int:
    """What one token takes in the KV cache of one GPU, in bytes, while every layer looks at it."""
    return sum(_each(one, gpus, terms) for one in model.kv)


def sequence_bytes(model: Architecture, gpus: int, terms: Terms, tokens: int) -> int:
    """What a sequence of `tokens` takes in the KV cache of one GPU at most, in bytes, in whole blocks.

    A layer with a window keeps the window, what steps in flight compute beyond it, and one block more, as vLLM counts
    it (0.32, `SlidingWindowSpec.max_admission_blocks_per_request`).
    """
    total = 0
    for one in _padded(model.kv, terms):
        kept, block = tokens, 0
        if one.window_tokens is not None:
            kept = min(tokens, one.window_tokens - 1 + terms.steps * terms.batch_tokens)
            block = terms.block_tokens
        total += _each(one, gpus, terms) * (blocks(kept, terms.block_tokens) + block)
    for state in model.states:
        part = _part(state.heads, state.layers, gpus, terms)
        total += round(state.layers * state.heads * state.width * STATE_BYTES * part)
    return total


def _padded(kv: tuple[KvLayers, ...], terms: Terms) -> tuple[KvLayers, ...]:
    """Layers as vLLM caches them, in groups of the same number of layers: where kinds do not come out even, there is
    room for layers that are not there (0.32, `_get_kv_cache_groups_uniform_page_size`)."""
    if terms.layered or len(kv) < 2:
        return kv
    least, most = min(one.layers for one in kv), max(one.layers for one in kv)
    group = most if most < least * GROUPED_AS_MOST else least
    return tuple(replace(one, layers=blocks(one.layers, group)) for one in kv)


def blocks(tokens: int, size: int) -> int:
    """`tokens`, or layers, rounded up to whole blocks of `size`."""
    return -(-tokens // size) * size


def divides(model: Architecture, gpus: int, way: Method | None = None) -> bool:
    """Whether tensor parallelism over `gpus` is possible: it divides attention heads and the MLP, KV heads are divided
    or repeated evenly, and weights that share a scale stay together (Qwen2.5-72B in AWQ can't be divided by 8)."""
    even = model.kv_heads % gpus == 0 or gpus % model.kv_heads == 0
    unit = (model.group or GROUP) if way is not None and way.group_bits and gpus > 1 else 1
    return model.heads % gpus == 0 and even and all(width % (gpus * unit) == 0 for width in _widths(model))


def _widths(model: Architecture) -> Iterable[int]:
    """The widths of MLPs and experts, which are divided between GPUs."""
    return {
        weight.units
        for weight in model.weights
        if weight.name.endswith((".up", ".down")) and weight.units > 1
    }


def _weights(model: Architecture, way: Method, gpus: int, terms: Terms) -> int:
    if not terms.layered:
        return weight_bytes(model, way, gpus=gpus)
    return round(weight_bytes(model, way) * share(model.layers, gpus))


def _each(one: KvLayers, gpus: int, terms: Terms) -> int:
    return round(
        one.layers * one.heads * one.width * terms.kv_bytes * _part(one.heads, one.layers, gpus, terms)
    )


def _part(heads: int, layers: int, gpus: int, terms: Terms) -> float:
    return share(layers, gpus) if terms.layered else share(heads, gpus)
