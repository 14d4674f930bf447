"""A model's `config.json` read into its architecture; a family that is not known is an error, never a guess."""

from __future__ import annotations

import json
from difflib import get_close_matches

from penstock.planner import families_classic, families_dense, families_mixture, families_vision
from penstock.planner.family import Reader
from penstock.planner.fields import Fields
from penstock.planner.shapes import Architecture, PlanError

FAMILIES: dict[str, Reader] = {
    **families_dense.FAMILIES,
    **families_classic.FAMILIES,
    **families_mixture.FAMILIES,
    **families_vision.FAMILIES,
}

CONFIG_BYTES_MAX = 4_000_000
"""The largest published ones, with quantized layers listed by name, have some hundred KB."""


def read_config(text: str | bytes, where: str) -> Architecture:
    """The architecture that a `config.json` describes.

    Args:
        text: its content, at most `CONFIG_BYTES_MAX`.
        where: its path or repository, for messages.

    Raises:
        PlanError: it is no JSON object, its family is not known here, or a size is missing or wrong.
    """
    if len(text) > CONFIG_BYTES_MAX:
        raise PlanError(f"{where}: {len(text)} bytes; a config.json has at most {CONFIG_BYTES_MAX}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            f"{where} is not JSON: {error}", hint="a download may have been cut off; fetch it again"
        ) from error
    if not isinstance(values, dict):
        raise PlanError(f"{where}: expected a JSON object, found {type(values).__name__}")
    return read_fields(Fields(values, where))


def read_fields(fields: Fields) -> Architecture:
    """The architecture that `fields` describe.

    Raises:
        PlanError: the family is not known here, or a size is missing or wrong.
    """
    family = fields.text("model_type")
    reader = FAMILIES.get(family)
    if reader is None:
        raise unknown(family, fields.where)
    return reader(fields)


def unknown(family: str, where: str) -> PlanError:
    """The error for a family that is not known here."""
    said = f"architecture {family[:80]!r} is not known here" if family else "it has no model_type"
    near = get_close_matches(family[:80], FAMILIES, n=1)
    hint = f"known: {', '.join(sorted(FAMILIES))}"
    return PlanError(f"{where}: {said}" + (f"; the nearest known is {near[0]}" if near else ""), hint=hint)
