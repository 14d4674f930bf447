"""What the readers of all families share: how an `Architecture` is put together from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.planner.blocks import Sizes, Weights
from penstock.planner.fields import Fields
from penstock.planner.shapes import DTYPE_BYTES, Architecture, Dtype, KvLayers, StateLayers

Reader = Callable[[Fields], Architecture]


def assembled(
    fields: Fields,
    size: Sizes,
    weights: Weights,
    kv: tuple[KvLayers, ...],
    *,
    tied: bool,
    inner: int | None = None,
    states: tuple[StateLayers, ...] = (),
    notes: Sequence[str] = (),
) -> Architecture:
    """The architecture.

    Args:
        inner: the width of the MLP, over all experts that see a token; `size.inner` by default.
    """
    method, group = quantized(fields)
    return Architecture(
        family=fields.text("model_type"),
        weights=weights,
        kv=kv,
        hidden=size.hidden,
        inner=inner or size.inner,
        vocabulary=size.vocabulary,
        heads=size.heads,
        kv_heads=max((one.heads for one in kv), default=1),
        context_max=fields.maybe(
            "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"
        ),
        dtype=dtype(fields),
        tied=tied,
        quantized=method,
        group=group,
        states=states,
        notes=tuple(notes),
    )


def tied(fields: Fields, *, default: bool) -> bool:
    """Whether the embedding is the output head.

    Args:
        default: of the family's class in `transformers`: a configuration may leave it out.
    """
    return fields.flag("tie_word_embeddings", default=default)


def dtype(fields: Fields) -> Dtype | None:
    """What the weights are stored as; None where it does not say, or says something that is not known here."""
    name = fields.text("dtype", "torch_dtype").removeprefix("torch.")
    return name if name in DTYPE_BYTES else None


def quantized(fields: Fields) -> tuple[str, int]:
    """How the files are quantized already: method and group size; an empty string and 0 where they are not."""
    part = fields.part("quantization_config") or fields.part("compression_config")
    if part is None:
        return "", 0
    method = part.text("quant_method")
    if method == "bitsandbytes":
        method = "bnb-int4" if part.flag("load_in_4bit", default=False) else "int8"
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed(part)
    if method == "gptq" and part.number("bits", default=4) == 8:
        method = "int8"
    return method or "unknown", _positive(part, "group_size")


def _compressed(part: Fields) -> tuple[str, int]:
    """The method of the first group of a `compressed-tensors` configuration."""
    groups = part.part("config_groups")
    first = groups.part(next(iter(groups.values), "")) if groups else None
    weights = first.part("weights") if first else None
    if weights is None:
        return "compressed-tensors", 0
    bits, kind = weights.number("num_bits", default=8), weights.text("type", default="int")
    names = {(8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "gptq"}
    return names.get((bits, kind), f"compressed-tensors {kind}{bits}"), _positive(weights, "group_size")


def _positive(part: Fields, name: str) -> int:
    """A group size; 0 for none and for the -1 that stands for a whole row."""
    return 0 if part.values.get(name) == -1 else part.number(name, default=0, least=0)
