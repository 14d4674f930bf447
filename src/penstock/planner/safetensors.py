"""The header of a safetensors file: how much it holds, by type. Format: https://github.com/huggingface/safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from penstock.planner.shapes import DamagedError

HEADER_BYTES_MAX = 100_000_000
"""The format's own limit."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Held:
    """What files hold.

    Args:
        parameters: elements of all tensors, by type as the format names it (`BF16`, `F8_E4M3`, `I32`).
        size_bytes: of all tensors.
    """

    parameters: Mapping[str, int]
    size_bytes: int

    @property
    def plain(self) -> bool:
        """Whether there are only floats: an element is a parameter then, and not a pack of several."""
        return set(self.parameters) <= FLOATS

    @property
    def total(self) -> int:
        """All elements."""
        return sum(self.parameters.values())

    def __add__(self, other: Held) -> Held:
        names = {*self.parameters, *other.parameters}
        both = {name: self.parameters.get(name, 0) + other.parameters.get(name, 0) for name in names}
        return Held(both, self.size_bytes + other.size_bytes)


def read_held(file: BinaryIO, where: str, size: int) -> Held:
    """What one file holds.

    Args:
        file: at its beginning.
        where: its path, for messages.
        size: of the file, in bytes.

    Raises:
        DamagedError: it is no such file, or is shorter than its header says.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(HEADER_BYTES_MAX, size):
        raise DamagedError(
            f"{where} is no safetensors file: its header would have {length} bytes of {size}", hint=_AGAIN
        )
    try:
        header = json.loads(file.read(length))
        found = [
            (one["dtype"], one["shape"], one["data_offsets"])
            for name, one in header.items()
            if name[:2] != "__"
        ]
        counts = [
            (str(dtype), math.prod(map(int, shape)), int(end) - int(start))
            for dtype, shape, (start, end) in found
        ]
        last = max((int(end) for _, _, (_, end) in found), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"{where} is no safetensors file: its header can't be read: {error}", hint=_AGAIN
        ) from error
    if 8 + length + last > size:
        raise DamagedError(f"{where} has {size} bytes of {8 + length + last}", hint=_AGAIN)
    parameters: dict[str, int] = {}
    for dtype, count, _ in counts:
        parameters[dtype] = parameters.get(dtype, 0) + count
    return Held(parameters, sum(taken for _, _, taken in counts))


_AGAIN = "a download may have been cut off; fetch it again"
