"""Which layers of a model cache what, from its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from penstock.planner.blocks import Sizes, checked_layers
from penstock.planner.fields import Fields
from penstock.planner.shapes import KvLayers

FULL = "full_attention"
SLIDING = "sliding_attention"
KNOWN = (FULL, SLIDING)


def cache(size: Sizes, *, layers: int | None = None, window: int | None = None) -> tuple[KvLayers, ...]:
    """Layers that are all alike: keys and values of every KV head."""
    return (KvLayers(size.layers if layers is None else layers, size.kv_heads, 2 * size.head, window),)


def mixed(fields: Fields, size: Sizes, kinds: Iterable[str], window: int | None) -> tuple[KvLayers, ...]:
    """Layers of which some look back over `window` tokens only.

    Args:
        kinds: of each layer, where the configuration has no `layer_types` of its own.

    Raises:
        PlanError: `layer_types` is not as long as there are layers, or names a kind that is not known here.
    """
    stated = fields.texts("layer_types")
    types = tuple(kinds) if stated is None else stated
    checked_layers(fields, "layer_types", len(types), size.layers)
    if unknown := sorted(set(types) - set(KNOWN)):
        raise fields.mistake("layer_types", f"known are {' and '.join(KNOWN)}; {unknown[0]!r} is not")
    count = Counter(types)
    if window is None:
        return cache(size)
    both = ((count[FULL], None), (count[SLIDING], window))
    return tuple(KvLayers(layers, size.kv_heads, 2 * size.head, far) for layers, far in both if layers)


def every(number: int, layers: int) -> tuple[str, ...]:
    """Kinds of layers of which each `number`th looks back over everything, the others over a window."""
    return tuple(SLIDING if (layer + 1) % number else FULL for layer in range(layers))
