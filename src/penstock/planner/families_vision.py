"""Models that also see: the text model of another family, and an encoder of images beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.planner.blocks import Sizes, Weights, attention, linear, mlp, norms, vector
from penstock.planner.families_dense import gemma3
from penstock.planner.family import Reader, dtype, quantized
from penstock.planner.fields import LAYERS_MAX, Fields
from penstock.planner.shapes import Architecture, PlanError, Role, Weight

GEMMA3_TEXT_DEFAULTS: Mapping[str, int] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
}
"""What Gemma 3's published files leave out, as `Gemma3TextConfig` of transformers 4.50 and 5.2 has it."""

CHANNELS = 3


def gemma3_vision(fields: Fields) -> Architecture:
    """Gemma 3 from 4B on: SigLIP and a projector before the text model."""
    inner = fields.part("text_config")
    seen = fields.part("vision_config")
    if inner is None or seen is None:
        raise PlanError(f"{fields.where}: {'text_config' if inner is None else 'vision_config'} is missing")
    text = gemma3(replace(inner, values={**GEMMA3_TEXT_DEFAULTS, **inner.values}))
    eye = _siglip(seen)
    wide = eye[0].outputs
    projector = (Weight("projector", text.hidden, wide, 1, Role.PLAIN), vector("projector.norm", wide, 1))
    method, group = quantized(fields)
    return replace(
        text,
        family=fields.text("model_type"),
        weights=(*text.weights, *eye, *projector),
        dtype=dtype(fields) or text.dtype,
        quantized=method,
        group=group,
        notes=("the cache of encoded images is not counted: it depends on how many a request may have",),
    )


def _siglip(fields: Fields) -> Weights:
    """SigLIP without its pooling head (`modeling_siglip.py`); the first weight's rows are its width."""
    size = Sizes(
        layers=fields.number("num_hidden_layers", default=12, most=LAYERS_MAX),
        hidden=fields.number("hidden_size", default=768),
        heads=fields.number("num_attention_heads", default=12),
        kv_heads=fields.number("num_attention_heads", default=12),
        head=1,
        inner=fields.number("intermediate_size", default=3072),
        vocabulary=1,
    )
    if fields.flag("vision_use_head", default=True):
        raise fields.mistake("vision_use_head", "only false is known here")
    size = replace(size, head=size.hidden // size.heads)
    patch = fields.number("patch_size", default=16)
    patches = (fields.number("image_size", default=224) // patch) ** 2
    parts = (
        *linear("vision.patch", CHANNELS * patch * patch, size.hidden, 1, 1, bias=True),
        Weight("vision.positions", patches, size.hidden, 1, Role.PLAIN),
        *attention(size, qkv_bias=True, out_bias=True),
        *mlp(size, gated=False, bias=True),
        *norms(size, per_layer=2, bias=True),
    )
    # Engines keep the encoder whole and unquantized on every GPU.
    return tuple(
        replace(one, name=f"vision.{one.name.removeprefix('vision.')}", role=Role.PLAIN, units=1)
        for one in parts
    )


FAMILIES: dict[str, Reader] = {"gemma3": gemma3_vision}
