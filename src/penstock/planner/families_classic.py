"""Decoders after GPT: layer norms with biases, plain MLPs, often learned positions."""

from __future__ import annotations

from penstock.planner.blocks import (
    Sizes,
    Weights,
    attention,
    embedding,
    head,
    linear,
    mlp,
    norms,
    sizes,
    vector,
)
from penstock.planner.caches import cache
from penstock.planner.family import Reader, assembled, tied
from penstock.planner.fields import Fields
from penstock.planner.shapes import Architecture, Role, Weight

OPT_POSITIONS_BEFORE = 2
"""OPT's table of positions has two rows more than it has positions."""

INNER_FACTOR = 4
"""How much wider than the hidden size an MLP is where the configuration does not say."""


def gpt2(fields: Fields) -> Architecture:
    """GPT-2 and what was trained like it."""
    return _learned(fields, _wide(fields))


def gpt_bigcode(fields: Fields) -> Architecture:
    """StarCoder 1 and SantaCoder: GPT-2 with one KV head."""
    return _learned(fields, _wide(fields, 1 if fields.flag("multi_query", default=True) else None))


def opt(fields: Fields) -> Architecture:
    """OPT; its 350m has a narrower embedding, and norms behind the parts and none at the end."""
    size = sizes(fields)
    narrow = fields.number("word_embed_proj_dim", default=size.hidden)
    bias, one = fields.flag("enable_bias", default=True), tied(fields, default=True)
    before = fields.flag("do_layer_norm_before", default=True)
    final = before and not fields.flag("_remove_final_layer_norm", default=False)
    affine = fields.flag("layer_norm_elementwise_affine", default=True)
    positions = fields.number("max_position_embeddings") + OPT_POSITIONS_BEFORE
    between = (
        *linear("project_in", narrow, size.hidden, 1, 1),
        *linear("project_out", size.hidden, narrow, 1, 1),
    )
    weights = (
        *embedding(size, narrow),
        *_positions(size, positions),
        *(between if narrow != size.hidden else ()),
        *attention(size, qkv_bias=bias, out_bias=bias),
        *mlp(size, gated=False, bias=bias),
        *(norms(size, per_layer=2, bias=True, final=final) if affine else ()),
        *head(size, tied=one, width=narrow),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def gpt_neox(fields: Fields) -> Architecture:
    """GPT-NeoX and Pythia."""
    size = sizes(fields)
    bias, one = fields.flag("attention_bias", default=True), tied(fields, default=False)
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=bias, out_bias=bias),
        *mlp(size, gated=False, bias=True),
        *norms(size, per_layer=2, bias=True),
        *head(size, tied=one),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def gptj(fields: Fields) -> Architecture:
    """GPT-J: one norm a layer, no biases in attention, one in the head."""
    size, one = _wide(fields), tied(fields, default=False)
    weights = (
        *embedding(size),
        *attention(size),
        *mlp(size, gated=False, bias=True),
        *norms(size, per_layer=1, bias=True),
        *head(size, tied=one, bias=True),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def bloom(fields: Fields) -> Architecture:
    """BLOOM: ALiBi, and a norm behind the embedding."""
    size, one = _wide(fields), tied(fields, default=True)
    weights = (
        *embedding(size),
        *(vector(name, size.hidden, 1) for name in ("embedding.norm", "embedding.norm.bias")),
        *attention(size, qkv_bias=True, out_bias=True),
        *mlp(size, gated=False, bias=True),
        *norms(size, per_layer=2, bias=True),
        *head(size, tied=one),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def falcon(fields: Fields) -> Architecture:
    """Falcon: one KV head in the 7B, a norm for attention and one for the MLP in the 40B and 180B."""
    new = fields.flag("new_decoder_architecture", default=False)
    kv_heads = fields.maybe("num_kv_heads") if new else None
    if not new and fields.flag("multi_query", default=True):
        kv_heads = 1
    size = _wide(fields, kv_heads, "ffn_hidden_size")
    bias, one = fields.flag("bias", default=False), tied(fields, default=True)
    parallel = fields.flag("parallel_attn", default=True)
    two = fields.number("num_ln_in_parallel_attn", default=2) == 2 if new else not parallel
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=bias, out_bias=bias),
        *mlp(size, gated=False, bias=bias),
        *norms(size, per_layer=2 if two else 1, bias=True),
        *head(size, tied=one),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def starcoder2(fields: Fields) -> Architecture:
    """StarCoder 2."""
    size = sizes(fields)
    bias, one = fields.flag("use_bias", default=True), tied(fields, default=True)
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=bias, out_bias=bias),
        *mlp(size, gated=False, bias=bias),
        *norms(size, per_layer=2, bias=True),
        *head(size, tied=one),
    )
    return assembled(fields, size, weights, cache(size, window=fields.maybe("sliding_window")), tied=one)


def phi(fields: Fields) -> Architecture:
    """Phi 1, 1.5 and 2: one norm a layer, biases everywhere, also in the head."""
    size, one = sizes(fields), tied(fields, default=False)
    if fields.flag("qk_layernorm", default=False):
        raise fields.mistake("qk_layernorm", "only false is known here")
    weights = (
        *embedding(size),
        *attention(size, qkv_bias=True, out_bias=True),
        *mlp(size, gated=False, bias=True),
        *norms(size, per_layer=1, bias=True),
        *head(size, tied=one, bias=True),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def _learned(fields: Fields, size: Sizes) -> Architecture:
    """GPT-2's layout, with a table of positions."""
    one = tied(fields, default=True)
    weights = (
        *embedding(size),
        *_positions(size, fields.number("n_positions", "max_position_embeddings")),
        *attention(size, qkv_bias=True, out_bias=True),
        *mlp(size, gated=False, bias=True),
        *norms(size, per_layer=2, bias=True),
        *head(size, tied=one),
    )
    return assembled(fields, size, weights, cache(size), tied=one)


def _positions(size: Sizes, positions: int) -> Weights:
    return (Weight("positions", positions, size.hidden, 1, Role.PLAIN),)


def _wide(fields: Fields, kv_heads: int | None = None, inner_name: str = "") -> Sizes:
    """Sizes where the MLP is four times as wide as the hidden size unless it says otherwise."""
    hidden = fields.number("n_embd", "hidden_size", "d_model")
    stated = fields.maybe(inner_name) if inner_name else None
    return sizes(fields, kv_heads=kv_heads, inner=stated or INNER_FACTOR * hidden)


FAMILIES: dict[str, Reader] = {
    "bloom": bloom,
    "falcon": falcon,
    "gpt2": gpt2,
    "gpt_bigcode": gpt_bigcode,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "opt": opt,
    "phi": phi,
    "starcoder2": starcoder2,
}
