"""The nouns of the planner: a weight, the KV cache of some layers, a model's architecture.

A model is a list of its weights, each with its shape, so that a sum of them is exact: there is no formula for
"about so many parameters" here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from penstock.core.errors import PenstockError

Dtype = str
"""A name of `DTYPE_BYTES`."""

DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}


class PlanError(PenstockError):
    """A model can't be planned: its description is missing, wrong, or of a kind that is not known here."""

    code = "model_unplannable"


class DamagedError(PlanError):
    """A model's files are not whole: a download was cut off, or something wrote over them."""

    code = "model_damaged"


class Role(StrEnum):
    """What quantization may do to a weight."""

    EMBEDDING = "embedding"
    HEAD = "head"
    LINEAR = "linear"
    EXPERT = "expert"
    PLAIN = "plain"
    """Norms, biases, routers: kept as they are by every method."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor, and how many of it there are.

    Args:
        name: its place in a layer, as `attention.q`.
        outputs: rows; the length of a vector.
        inputs: columns; 1 for a vector.
        count: copies in the model, usually one for each layer.
        role: what quantization may do to it.
        units: parts that tensor parallelism can't divide further: attention heads, KV heads, rows; 1 where
            each GPU holds all of it.
        active: copies that one token is computed with; all of them, but for experts.
        bits: what each parameter takes in the file, where it is fixed there (GGUF); 0 otherwise.
    """

    name: str
    outputs: int
    inputs: int
    count: int
    role: Role
    units: int = 1
    active: int | None = None
    bits: float = 0.0

    @property
    def parameters(self) -> int:
        """All parameters of all copies."""
        return self.outputs * self.inputs * self.count

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is computed with."""
        return self.outputs * self.inputs * (self.count if self.active is None else self.active)


def share(units: int, gpus: int) -> float:
    """The part of a tensor of `units` that the fullest of `gpus` GPUs holds: KV heads that are fewer than the
    GPUs are held by several of them."""
    return -(-units // gpus) / units


@dataclass(frozen=True, slots=True)
class KvLayers:
    """Layers that cache alike.

    Args:
        layers: how many.
        heads: KV heads of each; 1 with multi-head latent attention, whose cache every GPU holds whole.
        width: elements that a token takes in one head: key and value, or the latent and its rotary part.
        window_tokens: how far back they look; None without a limit.
    """

    layers: int
    heads: int
    width: int
    window_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StateLayers:
    """Layers that hold a state of fixed size for each sequence instead of a cache that grows.

    Args:
        layers: how many.
        heads: parts that tensor parallelism can't divide further.
        width: elements of each head.
    """

    layers: int
    heads: int
    width: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a model is made of.

    Args:
        family: its `model_type`, or GGUF's `general.architecture`.
        weights: all its weights; a head that is tied to the embedding is not among them.
        kv: its layers, by how they cache.
        hidden: the width of the residual stream.
        inner: the widest that an MLP makes of one token, in elements, over all experts that see it.
        vocabulary: tokens.
        heads: attention heads.
        kv_heads: KV heads; 1 with multi-head latent attention.
        context_max: tokens that it was trained for; None where it does not say.
        dtype: what its weights are stored as; None where it does not say.
        tied: whether the embedding is also the output head.
        quantized: the method that its files are quantized with already (`awq`), or an empty string.
        group: weights that share a scale there; 0 where it does not say.
        states: layers with a state instead of a cache.
        notes: what is left out or assumed, a sentence each.
    """

    family: str
    weights: tuple[Weight, ...]
    kv: tuple[KvLayers, ...]
    hidden: int
    inner: int
    vocabulary: int
    heads: int
    kv_heads: int
    context_max: int | None
    dtype: Dtype | None = None
    tied: bool = False
    quantized: str = ""
    group: int = 0
    states: tuple[StateLayers, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return total(self.weights)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is computed with: fewer than all in a mixture of experts."""
        return sum(weight.active_parameters for weight in self.weights)

    @property
    def layers(self) -> int:
        """Layers, of all kinds."""
        return sum(one.layers for one in self.kv) + sum(one.layers for one in self.states)


def total(weights: Iterable[Weight]) -> int:
    """The sum of the parameters."""
    return sum(weight.parameters for weight in weights)
