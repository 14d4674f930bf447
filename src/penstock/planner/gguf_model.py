"""A GGUF file's header read into an architecture: every tensor as it is stored, so that its memory is exact.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "LLM". What a family caches follows llama.cpp's
`llama-model.cpp` (`load_hparams`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from penstock.planner.fields import LAYERS_MAX, Fields
from penstock.planner.gguf import Header, Length, Tensor
from penstock.planner.shapes import Architecture, KvLayers, PlanError, Role, Weight

FAMILIES = (
    *(
        "bloom",
        "deepseek2",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gpt-oss",
        "gpt2",
        "gptj",
        "gptneox",
        "granite",
    ),
    *("llama", "olmo", "olmo2", "olmoe", "phi2", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3"),
    *("stablelm", "starcoder", "starcoder2"),
)

WINDOWED: Mapping[str, int] = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}
"""Families of which each layer but every n-th looks over a window; others' windows llama.cpp does not use."""

NO_PARAMETERS = ("rope_freqs", "rope_factors")
EXPERTS = "_exps."
EMBEDDINGS, HEADS = ("token_embd.weight", "per_layer_token_embd.weight"), ("output.weight",)


def read_gguf(header: Header, where: str) -> Architecture:
    """The architecture of the model in a GGUF file.

    Args:
        header: of the file, or of all its parts together.
        where: its path, for messages.

    Raises:
        PlanError: its family is not known here, or a key is missing or wrong.
    """
    family = header.metadata.get("general.architecture")
    if family not in FAMILIES:
        raise _unknown(family, where)
    fields = Fields(_own(header.metadata, str(family)), where, f"{family}.")
    layers, hidden = fields.number("block_count", most=LAYERS_MAX), fields.number("embedding_length")
    heads = max(_each(fields, "attention.head_count", layers))
    used, experts = fields.number("expert_used_count", default=0, least=0), fields.maybe("expert_count") or 0
    weights = tuple(_weights(header.tensors, used, experts))
    embedded = next((weight.outputs for weight in weights if weight.role is Role.EMBEDDING), 0)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    kv = _cache(fields, str(family), layers, hidden // heads)
    return Architecture(
        family=str(family),
        weights=weights,
        kv=kv,
        hidden=hidden,
        inner=_inner(fields, layers, used),
        vocabulary=tokens.entries if isinstance(tokens, Length) else embedded or 1,
        heads=heads,
        kv_heads=max((one.heads for one in kv), default=1),
        context_max=fields.maybe("context_length"),
        tied=not any(weight.role is Role.HEAD for weight in weights),
        quantized=_kinds(header.tensors),
    )


def _own(metadata: Mapping[str, object], family: str) -> dict[str, object]:
    start = f"{family}."
    return {name.removeprefix(start): value for name, value in metadata.items() if name.startswith(start)}


def _unknown(family: object, where: str) -> PlanError:
    if not isinstance(family, str):
        return PlanError(f"{where}: general.architecture is missing", hint="it may hold no language model")
    near = get_close_matches(family[:80], FAMILIES, n=1)
    said = f"{where}: GGUF architecture {family[:80]!r} is not known here"
    return PlanError(
        said + (f"; the nearest known is {near[0]}" if near else ""), hint=f"known: {', '.join(FAMILIES)}"
    )


def _weights(tensors: tuple[Tensor, ...], used: int, experts: int) -> Iterator[Weight]:
    for tensor in tensors:
        if tensor.name.startswith(NO_PARAMETERS) or ".rope_freqs" in tensor.name:
            continue
        inputs, outputs, *rest = (*tensor.shape, 1) if len(tensor.shape) < 2 else tensor.shape
        count = math.prod(rest)
        role = (
            Role.EMBEDDING
            if tensor.name in EMBEDDINGS
            else Role.HEAD
            if tensor.name in HEADS
            else Role.LINEAR
        )
        active = None
        if EXPERTS in tensor.name and experts:
            role, active = Role.EXPERT, count * used // experts
        yield Weight(tensor.name, outputs, inputs, count, role, active=active, bits=tensor.bits)


def _each(fields: Fields, name: str, layers: int, default: int | None = None) -> list[int]:
    """A number that a file gives for all layers, or for each."""
    if isinstance(fields.values.get(name), list):
        found = list(fields.numbers(name))
        if len(found) != layers:
            raise fields.mistake(name, f"expected {layers} entries")
        return found
    return [fields.number(name, default=default, least=0)] * layers


def _cache(fields: Fields, family: str, layers: int, head: int) -> tuple[KvLayers, ...]:
    if fields.maybe("attention.key_length_mla"):
        return (KvLayers(layers, 1, fields.number("attention.key_length")),)
    heads = _each(fields, "attention.head_count", layers)
    kv_heads = _each(fields, "attention.head_count_kv", layers, default=max(heads))
    width = fields.number("attention.key_length", default=head) + fields.number(
        "attention.value_length", default=head
    )
    window, pattern = fields.maybe("attention.sliding_window"), WINDOWED.get(family)
    counted: dict[tuple[int, int | None], int] = {}
    for layer, count in enumerate(kv_heads):
        far = window if window and pattern and (layer + 1) % pattern else None
        if count:
            counted[count, far] = counted.get((count, far), 0) + 1
    return tuple(KvLayers(number, count, width, far) for (count, far), number in counted.items())


def _inner(fields: Fields, layers: int, used: int) -> int:
    dense = max(_each(fields, "feed_forward_length", layers, default=0))
    expert = fields.number("expert_feed_forward_length", default=dense if used else 0, least=0)
    shared = fields.number("expert_shared_feed_forward_length", default=0, least=0)
    return max(1, dense if not used else 0, used * expert + shared)


def _kinds(tensors: tuple[Tensor, ...]) -> str:
    """The kind that most parameters are stored in."""
    counted: dict[str, int] = {}
    for tensor in tensors:
        counted[tensor.kind] = counted.get(tensor.kind, 0) + math.prod(tensor.shape)
    return max(counted, key=lambda kind: counted[kind], default="")
