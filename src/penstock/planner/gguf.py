"""The header of a GGUF file: its metadata and the shapes and kinds of its tensors, with a limit on everything.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Long lists, such
as the tokens of a vocabulary, are passed over, and only their length is kept.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from penstock.planner.shapes import DamagedError, PlanError

MAGIC = b"GGUF"
VERSIONS = (2, 3)

HEADER_BYTES_MAX = 64 * 2**20
"""Vocabularies of 300,000 tokens with merges take some 20 MB."""

KEYS_MAX = 65536
TENSORS_MAX = 262144
TEXT_BYTES_MAX = 16 * 2**20
"""Chat templates have some 100 KB."""

LIST_KEPT_MAX = 4096
"""Lists by layer are shorter; what is longer is a vocabulary."""

DIMENSIONS_MAX = 8
ALIGNMENT, ALIGNMENT_MAX = 32, 65536
CHUNK_BYTES = 2**20

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9

KINDS: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 24: ("i8", 1, 1),
    25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8), 29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17),
}  # fmt: skip
"""Kinds of tensors by number: name, elements of a block, bytes of a block (`ggml_type` and `ggml-common.h`)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file.

    Args:
        name: as llama.cpp calls it.
        shape: its dimensions, the fastest first.
        kind: a name of `KINDS`.
        bits: of each element, with its part of the block's scales.
        offset: of its data in the file's data, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    bits: float
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself.

    Args:
        metadata: by key; of a list that is too long to be kept, only its length as `Length`.
        tensors: in the order of the file.
        size_bytes: of the header itself.
    """

    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    size_bytes: int = 0

    @property
    def file_bytes(self) -> int:
        """What the whole file has at least: the header, padded, and the data of every tensor."""
        aligned = self.metadata.get("general.alignment", ALIGNMENT)
        unit = aligned if isinstance(aligned, int) and 0 < aligned <= ALIGNMENT_MAX else ALIGNMENT
        start = -(-self.size_bytes // unit) * unit
        ends = (tensor.offset + int(math.prod(tensor.shape) * tensor.bits / 8) for tensor in self.tensors)
        return start + max(ends, default=0)


@dataclass(frozen=True, slots=True)
class Length:
    """A list that was passed over."""

    entries: int


@dataclass(slots=True)
class _Reader:
    file: BinaryIO
    where: str
    taken: int = field(default=0)

    def bytes(self, count: int) -> bytes:
        self.taken += count
        if self.taken > HEADER_BYTES_MAX:
            raise self.mistake(f"its header has more than {HEADER_BYTES_MAX} bytes")
        found = self.file.read(count)
        if len(found) != count:
            raise DamagedError(
                f"{self.where}: the file ends amid its header, after {self.taken - count + len(found)} bytes",
                hint="a download may have been cut off; fetch it again",
            )
        return found

    def skip(self, count: int) -> None:
        while count > 0:
            step = min(count, CHUNK_BYTES)
            self.bytes(step)
            count -= step

    def scalar(self, kind: int) -> Any:
        form = "<" + _SCALARS[kind]
        return struct.unpack(form, self.bytes(struct.calcsize(form)))[0]

    def number(self, form: str, most: int, what: str) -> int:
        value: int = struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))[0]
        if value > most:
            raise self.mistake(f"{value} {what}, of at most {most}")
        return value

    def text(self) -> str:
        return self.bytes(self.number("Q", TEXT_BYTES_MAX, "bytes in a text")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(kind)
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            return self.list()
        raise self.mistake(f"a value of the unknown type {kind}")

    def list(self) -> Any:
        kind, count = (
            self.number("I", 2**32, "types"),
            self.number("Q", HEADER_BYTES_MAX, "entries in a list"),
        )
        if kind == _TEXT:
            for _ in range(count):
                self.skip(self.number("Q", TEXT_BYTES_MAX, "bytes in a text"))
            return Length(count)
        if kind not in _SCALARS:
            raise self.mistake(f"a list of the unknown type {kind}")
        if count > LIST_KEPT_MAX:
            self.skip(count * struct.calcsize("<" + _SCALARS[kind]))
            return Length(count)
        return [self.scalar(kind) for _ in range(count)]

    def tensor(self) -> Tensor:
        name = self.text()
        shape = tuple(
            self.number("Q", 2**48, "elements") for _ in range(self.number("I", DIMENSIONS_MAX, "dimensions"))
        )
        number, offset = self.number("I", 2**32, "kinds"), self.number("Q", 2**63, "bytes of offset")
        if number not in KINDS:
            raise self.mistake(f"tensor {name[:80]!r} is of the unknown kind {number}")
        kind, block, size = KINDS[number]
        return Tensor(name, shape, kind, size * 8 / block, offset)

    def mistake(self, said: str) -> PlanError:
        return PlanError(
            f"{self.where} is no GGUF file that can be read here: {said}",
            hint="it may be damaged; fetch it again",
        )


def read_header(file: BinaryIO, where: str) -> Header:
    """The header of a GGUF file.

    Args:
        file: at its beginning.
        where: its path, for messages.

    Raises:
        PlanError: it is no such file, of another version, cut off, or larger than the limits of this module.
    """
    reader = _Reader(file, where)
    magic = reader.bytes(len(MAGIC))
    if magic != MAGIC:
        raise reader.mistake(f"it begins with {magic!r}")
    version = reader.number("I", 2**32, "versions")
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise reader.mistake(f"it is of version {version} or big-endian; known are {known}, little-endian")
    tensors, keys = reader.number("Q", TENSORS_MAX, "tensors"), reader.number("Q", KEYS_MAX, "keys")
    metadata = {}
    for _ in range(keys):
        name = reader.text()
        metadata[name] = reader.value(reader.number("I", 2**32, "types"))
    found = tuple(reader.tensor() for _ in range(tensors))
    return Header(metadata, found, reader.taken)
