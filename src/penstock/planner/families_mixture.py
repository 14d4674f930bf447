"""Mixtures of experts: Mixtral, Qwen, OLMoE, gpt-oss, DeepSeek."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.planner.blocks import (
    Mixture,
    Sizes,
    Weights,
    attention,
    checked_layers,
    embedding,
    experts,
    head,
    linear,
    mixture,
    mlp,
    norms,
    sizes,
    vector,
)
from penstock.planner.caches import FULL, cache, every, mixed
from penstock.planner.families_dense import QWEN3_HEAD, qwen_cache, wide_norms
from penstock.planner.family import Reader, assembled, tied
from penstock.planner.fields import Fields
from penstock.planner.shapes import Architecture, KvLayers, StateLayers

CORRECTED = ("deepseek_v3", "kimi_k2", "glm4_moe")
GPT_OSS_HEAD = 64
QWEN3_NEXT_HEAD = 256


def mixtral(fields: Fields) -> Architecture:
    """Mixtral 8x7B and 8x22B: every layer has experts."""
    size, one = sizes(fields), tied(fields, default=False)
    choice = mixture(fields, size.layers, experts=("num_local_experts",), inner=("intermediate_size",))
    weights = (
        *embedding(size),
        *attention(size),
        *experts(size, choice),
        *norms(size, per_layer=2),
        *head(size, tied=one),
    )
    kv = cache(size, window=fields.maybe("sliding_window"))
    return assembled(fields, size, weights, kv, tied=one, inner=choice.active * choice.inner)


def qwen2_moe(fields: Fields) -> Architecture:
    """Qwen 1.5 and 2 with experts, beside one that every token passes, through a gate of its own."""
    size = sizes(fields)
    sparse = _sparse_layers(fields, size.layers)
    choice = mixture(fields, sparse, experts=("num_experts",), inner=("moe_intermediate_size",))
    shared = fields.number("shared_expert_intermediate_size")
    parts = (
        *attention(size, qkv_bias=fields.flag("qkv_bias", default=True)),
        *experts(size, choice),
        *mlp(size, layers=sparse, inner=shared, name="shared"),
        *((vector("shared.router", size.hidden, sparse),) if sparse else ()),
        *mlp(size, layers=size.layers - sparse),
    )
    return _qwen(fields, size, parts, choice.active * choice.inner + shared)


def qwen3_moe(fields: Fields) -> Architecture:
    """Qwen 3 with experts: none is shared."""
    size = sizes(fields, head=QWEN3_HEAD)
    sparse = _sparse_layers(fields, size.layers)
    choice = mixture(
        fields, sparse, experts=("num_experts", "num_local_experts"), inner=("moe_intermediate_size",)
    )
    bias = fields.flag("attention_bias", default=False)
    parts = (
        *attention(size, qkv_bias=bias, out_bias=bias, qk_norm=True),
        *experts(size, choice),
        *mlp(size, layers=size.layers - sparse),
    )
    return _qwen(fields, size, parts, choice.active * choice.inner)


def qwen3_next(fields: Fields) -> Architecture:
    """Qwen 3 Next: three layers in four hold a state (gated DeltaNet) instead of a cache that grows."""
    size = sizes(fields, head=QWEN3_NEXT_HEAD)
    full = _full_layers(fields, size)
    sparse = _sparse_layers(fields, size.layers)
    choice = mixture(fields, sparse, experts=("num_experts",), inner=("moe_intermediate_size",))
    shared = fields.number("shared_expert_intermediate_size")
    bias = fields.flag("attention_bias", default=False)
    delta, states = delta_net(fields, size, size.layers - full)
    one = tied(fields, default=False)
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=bias, out_bias=bias, qk_norm=True, layers=full),
        *linear("attention.gate", size.hidden, size.heads * size.head, full, size.heads, bias=bias),
        *delta,
        *experts(size, choice),
        *mlp(size, layers=sparse, inner=shared, name="shared"),
        *((vector("shared.router", size.hidden, sparse),) if sparse else ()),
        *mlp(size, layers=size.layers - sparse),
        *norms(size, per_layer=2),
        *head(size, tied=one),
    )
    inner = choice.active * choice.inner + shared
    return assembled(fields, size, weights, cache(size, layers=full), tied=one, inner=inner, states=states)


def _full_layers(fields: Fields, size: Sizes) -> int:
    """How many layers cache; the others hold a state."""
    types = fields.texts("layer_types")
    if types is None:
        return size.layers // fields.number("full_attention_interval", default=4)
    checked_layers(fields, "layer_types", len(types), size.layers)
    return sum(kind == FULL for kind in types)


def delta_net(fields: Fields, size: Sizes, layers: int) -> tuple[Weights, tuple[StateLayers, ...]]:
    """Gated DeltaNet (arXiv 2412.06464): its weights, and the state that it holds for each sequence."""
    keys, values = fields.number("linear_num_key_heads"), fields.number("linear_num_value_heads")
    key, value = fields.number("linear_key_head_dim"), fields.number("linear_value_head_dim")
    kernel = fields.number("linear_conv_kernel_dim", default=4)
    key_width, value_width = keys * key, values * value
    mixed_width = 2 * key_width + value_width
    weights = (
        *linear("delta.qkvz", size.hidden, 2 * key_width + 2 * value_width, layers, keys),
        *linear("delta.ba", size.hidden, 2 * values, layers, keys),
        vector("delta.conv", mixed_width * kernel, layers, keys),
        vector("delta.decay", values, layers, values),
        vector("delta.step", values, layers, values),
        vector("delta.norm", value, layers),
        *linear("delta.o", value_width, size.hidden, layers, values),
    )
    state = key * value + mixed_width * (kernel - 1) // values
    return weights, (StateLayers(layers, values, state),)


def _qwen(fields: Fields, size: Sizes, parts: Weights, inner: int) -> Architecture:
    one = tied(fields, default=False)
    weights = (*embedding(size), *parts, *norms(size, per_layer=2), *head(size, tied=one))
    return assembled(fields, size, weights, qwen_cache(fields, size), tied=one, inner=inner)


def _sparse_layers(fields: Fields, layers: int) -> int:
    """How many layers have experts: each `decoder_sparse_step`th that is not in `mlp_only_layers`."""
    step, dense = (
        fields.number("decoder_sparse_step", default=1),
        frozenset(fields.numbers("mlp_only_layers")),
    )
    return sum((layer + 1) % step == 0 and layer not in dense for layer in range(layers))


def olmoe(fields: Fields) -> Architecture:
    """OLMoE: every layer has experts, norms over all queries and all keys of a token."""
    size, one = sizes(fields), tied(fields, default=False)
    choice = mixture(fields, size.layers, experts=("num_experts",), inner=("intermediate_size",))
    bias = fields.flag("attention_bias", default=False)
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=bias, out_bias=bias),
        *wide_norms(size),
        *experts(size, choice),
        *norms(size, per_layer=2),
        *head(size, tied=one),
    )
    return assembled(fields, size, weights, cache(size), tied=one, inner=choice.active * choice.inner)


def gpt_oss(fields: Fields) -> Architecture:
    """OpenAI's gpt-oss: biases everywhere, a sink for each head, every other layer looks over a window."""
    size, one = sizes(fields, head=GPT_OSS_HEAD), tied(fields, default=False)
    choice = mixture(fields, size.layers, experts=("num_local_experts",), inner=("intermediate_size",))
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=True, out_bias=True),
        vector("attention.sinks", size.heads, size.layers, size.heads),
        *experts(size, choice, router_bias=True, bias=True),
        *norms(size, per_layer=2),
        *head(size, tied=one),
    )
    kv = mixed(fields, size, every(2, size.layers), fields.number("sliding_window", default=128))
    return assembled(fields, size, weights, kv, tied=one, inner=choice.active * choice.inner)


def glm4_moe(fields: Fields) -> Architecture:
    """GLM 4.5 to 4.7: dense layers first, shared experts, common attention."""
    size, one = sizes(fields, head=128), tied(fields, default=False)
    dense = min(size.layers, fields.number("first_k_dense_replace", default=0, least=0))
    choice = mixture(
        fields, size.layers - dense, experts=("n_routed_experts",), inner=("moe_intermediate_size",)
    )
    shared = fields.number("n_shared_experts", default=0, least=0) * choice.inner
    qk_norm = fields.flag("use_qk_norm", default=False)
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=fields.flag("attention_bias", default=False), qk_norm=qk_norm),
        *mlp(size, layers=dense),
        *experts(size, choice),
        *(mlp(size, layers=choice.layers, inner=shared, name="shared") if shared else ()),
        *_correction(fields, choice),
        *norms(size, per_layer=2),
        *head(size, tied=one),
    )
    inner = max(size.inner if dense else 0, choice.active * choice.inner + shared)
    return assembled(fields, size, weights, cache(size), tied=one, inner=inner, notes=_left_out(fields))


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Args:
        query_rank: of the compressed queries; None where they are not compressed.
        kv_rank: of the compressed keys and values: what is cached, beside the rotary part.
        rotary: elements of the rotary part, which all heads share.
        plain: elements of a head's query and key without the rotary part.
        value: elements of a head's value.
    """

    query_rank: int | None
    kv_rank: int
    rotary: int
    plain: int
    value: int


def deepseek(fields: Fields) -> Architecture:
    """DeepSeek-V2, V2-Lite, V3 and R1: latent attention, dense layers first, shared experts."""
    latent = Latent(
        fields.maybe("q_lora_rank"),
        fields.number("kv_lora_rank"),
        fields.number("qk_rope_head_dim"),
        fields.number("qk_nope_head_dim"),
        fields.number("v_head_dim"),
    )
    size, one = sizes(fields, head=latent.plain + latent.rotary), tied(fields, default=False)
    dense = min(size.layers, fields.number("first_k_dense_replace", default=0, least=0))
    if fields.number("moe_layer_freq", default=1) != 1:
        raise fields.mistake("moe_layer_freq", "only 1 is known here")
    choice = mixture(
        fields, size.layers - dense, experts=("n_routed_experts",), inner=("moe_intermediate_size",)
    )
    shared = fields.number("n_shared_experts", default=0, least=0) * choice.inner
    weights = (
        *embedding(size),
        *_latent_attention(size, latent, bias=fields.flag("attention_bias", default=False)),
        *mlp(size, layers=dense),
        *experts(size, choice),
        *(mlp(size, layers=choice.layers, inner=shared, name="shared") if shared else ()),
        *_correction(fields, choice),
        *norms(size, per_layer=2),
        *head(size, tied=one),
    )
    inner = max(size.inner if dense else 0, choice.active * choice.inner + shared)
    kv = (KvLayers(size.layers, 1, latent.kv_rank + latent.rotary),)
    return assembled(fields, size, weights, kv, tied=one, inner=inner, notes=_left_out(fields))


def _latent_attention(size: Sizes, latent: Latent, *, bias: bool) -> Weights:
    """Its projections: what compresses is on every GPU whole, what expands is divided by heads."""
    layers, queries = size.layers, size.heads * (latent.plain + latent.rotary)
    if latent.query_rank:
        query: Weights = (
            *linear("attention.q_a", size.hidden, latent.query_rank, layers, 1, bias=bias),
            vector("attention.q_a_norm", latent.query_rank, layers),
            *linear("attention.q_b", latent.query_rank, queries, layers, size.heads),
        )
    else:
        query = linear("attention.q", size.hidden, queries, layers, size.heads)
    return (
        *query,
        *linear("attention.kv_a", size.hidden, latent.kv_rank + latent.rotary, layers, 1, bias=bias),
        vector("attention.kv_a_norm", latent.kv_rank, layers),
        *linear(
            "attention.kv_b", latent.kv_rank, size.heads * (latent.plain + latent.value), layers, size.heads
        ),
        *linear(
            "attention.o", size.heads * latent.value, size.hidden, layers, size.heads, bias=bias, bias_units=1
        ),
    )


def _correction(fields: Fields, choice: Mixture) -> Weights:
    """Biases that balance V3's experts and its heirs'; `transformers` has them as buffers, published totals count
    them."""
    if fields.text("model_type") not in CORRECTED or not choice.layers:
        return ()
    return (vector("router.correction", choice.experts, choice.layers),)


def _left_out(fields: Fields) -> tuple[str, ...]:
    ahead = fields.number("num_nextn_predict_layers", default=0, least=0)
    if not ahead:
        return ()
    return (
        f"layers for multi-token prediction ({ahead}) are not counted: engines load them only to speculate",
    )


FAMILIES: dict[str, Reader] = {
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "kimi_k2": deepseek,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
}
