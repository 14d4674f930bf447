"""Dense decoders after Llama: RMS norms, rotary positions, gated MLPs."""

from __future__ import annotations

from penstock.planner.blocks import Sizes, Weights, attention, embedding, head, mlp, norms, sizes, vector
from penstock.planner.caches import FULL, SLIDING, cache, every, mixed
from penstock.planner.family import Reader, assembled, tied
from penstock.planner.fields import Fields
from penstock.planner.shapes import Architecture, KvLayers

MISTRAL_WINDOW = 4096
QWEN3_HEAD = 128
GEMMA_HEAD = 256


def llama(fields: Fields) -> Architecture:
    """Llama 1 to 3, and what is published as `llama`: TinyLlama, Yi, SmolLM, Vicuna, DeepSeek LLM."""
    size = sizes(fields)
    bias, mlp_bias = fields.flag("attention_bias", default=False), fields.flag("mlp_bias", default=False)
    weights = (
        *attention(size, qkv_bias=bias, out_bias=bias),
        *mlp(size, bias=mlp_bias),
        *norms(size, per_layer=2),
    )
    return _gated(fields, size, weights, cache(size))


def mistral(fields: Fields) -> Architecture:
    """Mistral 7B and later; the first looked back over 4096 tokens only."""
    size = sizes(fields)
    window = fields.maybe("sliding_window") if "sliding_window" in fields.values else MISTRAL_WINDOW
    return _gated(
        fields, size, (*attention(size), *mlp(size), *norms(size, per_layer=2)), cache(size, window=window)
    )


def qwen2(fields: Fields) -> Architecture:
    """Qwen 1.5, 2 and 2.5: biases on queries, keys and values."""
    size = sizes(fields)
    weights = (*attention(size, qkv_bias=True), *mlp(size), *norms(size, per_layer=2))
    return _gated(fields, size, weights, qwen_cache(fields, size))


def qwen3(fields: Fields) -> Architecture:
    """Qwen 3: a norm on each head's queries and keys."""
    size = sizes(fields, head=QWEN3_HEAD)
    bias = fields.flag("attention_bias", default=False)
    heads = attention(size, qkv_bias=bias, out_bias=bias, qk_norm=True)
    weights = (*heads, *mlp(size), *norms(size, per_layer=2))
    return _gated(fields, size, weights, qwen_cache(fields, size))


def qwen_cache(fields: Fields, size: Sizes) -> tuple[KvLayers, ...]:
    """What Qwen's layers cache: those from `max_window_layers` on may look over a window, where that is used."""
    if not fields.flag("use_sliding_window", default=False):
        return cache(size)
    first = fields.number("max_window_layers", default=size.layers, least=0)
    kinds = [SLIDING if layer >= first else FULL for layer in range(size.layers)]
    return mixed(fields, size, kinds, fields.maybe("sliding_window"))


def phi3(fields: Fields) -> Architecture:
    """Phi 3, 3.5 and 4."""
    size = sizes(fields)
    weights = (*attention(size), *mlp(size), *norms(size, per_layer=2))
    return _gated(fields, size, weights, cache(size, window=fields.maybe("sliding_window")))


def gemma(fields: Fields) -> Architecture:
    """Gemma 1."""
    size = sizes(fields, head=GEMMA_HEAD)
    weights = (*attention(size), *mlp(size), *norms(size, per_layer=2))
    return _gated(fields, size, weights, cache(size), tied_default=True)


def gemma2(fields: Fields) -> Architecture:
    """Gemma 2: four norms a layer, and every other layer looks over a window."""
    size = sizes(fields, head=GEMMA_HEAD)
    weights = (*attention(size), *mlp(size), *norms(size, per_layer=4))
    kv = mixed(fields, size, every(2, size.layers), fields.number("sliding_window", default=4096))
    return _gated(fields, size, weights, kv, tied_default=True)


def gemma3(fields: Fields) -> Architecture:
    """The text model of Gemma 3: one layer in six looks at everything, the others over a window."""
    size = sizes(fields, head=GEMMA_HEAD)
    weights = (*attention(size, qk_norm=True), *mlp(size), *norms(size, per_layer=4))
    pattern = fields.number("sliding_window_pattern", "_sliding_window_pattern", default=6)
    window = fields.number("sliding_window", default=4096)
    return _gated(
        fields, size, weights, mixed(fields, size, every(pattern, size.layers), window), tied_default=True
    )


def olmo(fields: Fields) -> Architecture:
    """OLMo 1: norms without parameters."""
    size = sizes(fields)
    bias = fields.flag("attention_bias", default=False)
    weights = (*attention(size, qkv_bias=bias, out_bias=bias), *mlp(size))
    return _gated(fields, size, weights, cache(size))


def olmo2(fields: Fields) -> Architecture:
    """OLMo 2: norms behind attention and MLP, and over all queries and all keys of a token."""
    size = sizes(fields)
    bias = fields.flag("attention_bias", default=False)
    heads = (*attention(size, qkv_bias=bias, out_bias=bias), *wide_norms(size))
    return _gated(fields, size, (*heads, *mlp(size), *norms(size, per_layer=2)), cache(size))


def wide_norms(size: Sizes) -> Weights:
    """Norms over all heads of the queries, and of the keys."""
    return (
        vector("attention.q_norm", size.heads * size.head, size.layers),
        vector("attention.k_norm", size.kv_heads * size.head, size.layers),
    )


def cohere(fields: Fields) -> Architecture:
    """Command R: one norm a layer, before attention and MLP at once."""
    size = sizes(fields)
    if fields.flag("use_qk_norm", default=False):
        raise fields.mistake("use_qk_norm", "only false is known here (Command R+'s norms are not)")
    bias = fields.flag("attention_bias", default=False)
    weights = (*attention(size, qkv_bias=bias, out_bias=bias), *mlp(size), *norms(size, per_layer=1))
    return _gated(fields, size, weights, cache(size), tied_default=True)


def glm4(fields: Fields) -> Architecture:
    """GLM 4 of 2025: norms before and behind attention and MLP."""
    size = sizes(fields)
    weights = (
        *attention(size, qkv_bias=fields.flag("attention_bias", default=False)),
        *mlp(size),
        *norms(size, per_layer=4),
    )
    return _gated(fields, size, weights, cache(size))


def stablelm(fields: Fields) -> Architecture:
    """StableLM 2 and 3B: layer norms with biases before gated MLPs."""
    size = sizes(fields)
    if fields.flag("qk_layernorm", default=False):
        raise fields.mistake("qk_layernorm", "only false is known here (StableLM 2 12B's norms are not)")
    per_layer = 1 if fields.flag("use_parallel_residual", default=False) else 2
    weights = (
        *attention(size, qkv_bias=fields.flag("use_qkv_bias", default=False)),
        *mlp(size),
        *norms(size, per_layer=per_layer, bias=True),
    )
    return _gated(fields, size, weights, cache(size))


def _gated(
    fields: Fields, size: Sizes, weights: Weights, kv: tuple[KvLayers, ...], *, tied_default: bool = False
) -> Architecture:
    one = tied(fields, default=tied_default)
    return assembled(fields, size, (*embedding(size), *weights, *head(size, tied=one)), kv, tied=one)


FAMILIES: dict[str, Reader] = {
    "cohere": cohere,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "glm4": glm4,
    "granite": llama,
    "llama": llama,
    "mistral": mistral,
    "olmo": olmo,
    "olmo2": olmo2,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": llama,
    "stablelm": stablelm,
}
