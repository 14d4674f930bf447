"""The parts that decoders are built of, as weights: embeddings, attention, MLPs, experts, norms.

Sizes follow the modules of `transformers` (its `modeling_*.py`); a test compares every family with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.planner.fields import LAYERS_MAX, Fields
from penstock.planner.shapes import PlanError, Role, Weight

Weights = tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a decoder, as most configurations spell them."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int


def sizes(
    fields: Fields, *, head: int | None = None, kv_heads: int | None = None, inner: int | None = None
) -> Sizes:
    """The sizes in `fields`, by any of the names that published configurations use.

    Args:
        head: elements of a head where the configuration does not say; hidden / heads by default.
        kv_heads: KV heads where it does not say; as many as heads by default.
        inner: the MLP's width where it does not say.

    Raises:
        PlanError: one is missing or wrong.
    """
    hidden = fields.number("hidden_size", "n_embd", "d_model")
    heads = fields.number("num_attention_heads", "n_head", "n_heads")
    kv = fields.number("num_key_value_heads", default=kv_heads or heads)
    stated = fields.maybe("head_dim") or head
    if stated is None and hidden % heads:
        raise fields.mistake("hidden_size", f"expected a multiple of the {heads} attention heads")
    if kv > heads or heads % kv:
        raise fields.mistake("num_key_value_heads", f"expected a divisor of the {heads} attention heads")
    return Sizes(
        layers=fields.number("num_hidden_layers", "n_layer", "n_layers", most=LAYERS_MAX),
        hidden=hidden,
        heads=heads,
        kv_heads=kv,
        head=stated or hidden // heads,
        inner=fields.number("intermediate_size", "n_inner", "ffn_dim", default=inner),
        vocabulary=fields.number("vocab_size"),
    )


def linear(
    name: str,
    inputs: int,
    outputs: int,
    count: int,
    units: int,
    *,
    bias: bool = False,
    bias_units: int | None = None,
) -> Weights:
    """A linear layer; `bias_units` where its bias is not divided as its weight is (a row-parallel one's is whole)."""
    weight = Weight(name, outputs, inputs, count, Role.LINEAR, units)
    if not bias:
        return (weight,)
    return (weight, vector(f"{name}.bias", outputs, count, units if bias_units is None else bias_units))


def vector(name: str, length: int, count: int, units: int = 1) -> Weight:
    """A vector, as of a norm or a bias."""
    return Weight(name, length, 1, count, Role.PLAIN, units)


def embedding(size: Sizes, width: int | None = None) -> Weights:
    """The embedding of tokens; rows are divided between GPUs."""
    return (Weight("embedding", size.vocabulary, width or size.hidden, 1, Role.EMBEDDING, size.vocabulary),)


def head(size: Sizes, *, tied: bool, bias: bool = False, width: int | None = None) -> Weights:
    """The output head; nothing where it is the embedding."""
    rows = (
        ()
        if tied
        else (Weight("head", size.vocabulary, width or size.hidden, 1, Role.HEAD, size.vocabulary),)
    )
    return (*rows, vector("head.bias", size.vocabulary, 1, size.vocabulary)) if bias else rows


def attention(
    size: Sizes,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    layers: int | None = None,
) -> Weights:
    """Attention with any number of KV heads.

    Args:
        qk_norm: whether queries and keys pass a norm over each head.
        layers: with this attention; all by default.
    """
    count = size.layers if layers is None else layers
    queries, keys = size.heads * size.head, size.kv_heads * size.head
    norms = (vector("attention.q_norm", size.head, count), vector("attention.k_norm", size.head, count))
    return (
        *linear("attention.q", size.hidden, queries, count, size.heads, bias=qkv_bias),
        *linear("attention.k", size.hidden, keys, count, size.kv_heads, bias=qkv_bias),
        *linear("attention.v", size.hidden, keys, count, size.kv_heads, bias=qkv_bias),
        *linear("attention.o", queries, size.hidden, count, size.heads, bias=out_bias, bias_units=1),
        *(norms if qk_norm else ()),
    )


def mlp(
    size: Sizes,
    *,
    gated: bool = True,
    bias: bool = False,
    layers: int | None = None,
    inner: int | None = None,
    name: str = "mlp",
) -> Weights:
    """A feed-forward part: two matrices, or three where it is gated."""
    count, wide = size.layers if layers is None else layers, inner or size.inner
    if count == 0:
        return ()
    return (
        *(linear(f"{name}.gate", size.hidden, wide, count, wide, bias=bias) if gated else ()),
        *linear(f"{name}.up", size.hidden, wide, count, wide, bias=bias),
        *linear(f"{name}.down", wide, size.hidden, count, wide, bias=bias, bias_units=1),
    )


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of experts.

    Args:
        layers: with experts.
        experts: in each.
        active: that one token is sent to.
        inner: the width of one.
    """

    layers: int
    experts: int
    active: int
    inner: int


def experts(size: Sizes, mixture: Mixture, *, router_bias: bool = False, bias: bool = False) -> Weights:
    """The router and the gated experts of every layer that has them."""
    if mixture.layers == 0:
        return ()
    count, active = mixture.layers * mixture.experts, mixture.layers * mixture.active
    matrices = (
        ("gate", size.hidden, mixture.inner),
        ("up", size.hidden, mixture.inner),
        ("down", mixture.inner, size.hidden),
    )
    weights = [
        Weight(f"experts.{name}", outputs, inputs, count, Role.EXPERT, mixture.inner, active)
        for name, inputs, outputs in matrices
    ]
    if bias:
        weights += [
            Weight(f"experts.{name}.bias", outputs, 1, count, Role.PLAIN, 1, active)
            for name, _, outputs in matrices
        ]
    router = Weight("router", mixture.experts, size.hidden, mixture.layers, Role.PLAIN)
    biases = (vector("router.bias", mixture.experts, mixture.layers),) if router_bias else ()
    return (*weights, router, *biases)


def mixture(fields: Fields, layers: int, *, experts: tuple[str, ...], inner: tuple[str, ...]) -> Mixture:
    """The mixture that `fields` describe, under the names that this family gives to its numbers.

    Raises:
        PlanError: a token is sent to more experts than there are.
    """
    count = fields.number(*experts)
    active = fields.number("num_experts_per_tok", "moe_topk")
    if active > count:
        raise fields.mistake("num_experts_per_tok", f"expected at most the {count} experts there are")
    return Mixture(layers, count, active, fields.number(*inner))


def norms(size: Sizes, *, per_layer: int, bias: bool = False, final: bool = True) -> Weights:
    """Norms over the hidden size: `per_layer` in each layer, and one behind the last."""
    parts = [("norm", size.layers * per_layer)] if per_layer else []
    parts += [("final_norm", 1)] if final else []
    both = [vector(name, size.hidden, count) for name, count in parts]
    return (*both, *(vector(f"{one.name}.bias", size.hidden, one.count) for one in both if bias))


def checked_layers(fields: Fields, name: str, found: int, layers: int) -> None:
    """Sees that a list of layers has an entry for each.

    Raises:
        PlanError: it has not.
    """
    if found != layers:
        raise PlanError(f"{fields.where}: {fields.path}{name}: expected {layers} entries, found {found}")
