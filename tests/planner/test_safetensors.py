"""Headers of safetensors files."""

from __future__ import annotations

import io
import json

import pytest

from penstock.planner.safetensors import Held, read_held
from penstock.planner.shapes import PlanError


def file(header: object, data: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def read(data: bytes) -> Held:
    return read_held(io.BytesIO(data), "x.safetensors", len(data))


def test_elements_are_counted_by_type() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
    }

    held = read(file(header, 16))

    assert held == Held({"BF16": 6, "F32": 1}, 16)
    assert (held.total, held.plain) == (7, True)


def test_packed_weights_are_not_plain() -> None:
    held = read(file({"a": {"dtype": "I32", "shape": [4], "data_offsets": [0, 16]}}, 16))

    assert not held.plain
    assert held + Held({"F16": 1}, 2) == Held({"I32": 4, "F16": 1}, 18)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "its header would have 0 bytes of 0"),
        (b"\xff" * 8, "its header would have"),
        (file({"a": 1}), "its header can't be read"),
        (file([1]), "its header can't be read"),
        (
            file({"a": {"dtype": "BF16", "shape": ["x"], "data_offsets": [0, 2]}}, 2),
            "its header can't be read",
        ),
        (file({"a": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}, 5), "bytes of"),
    ],
)
def test_a_file_that_is_damaged_or_cut_off_is_an_error(data: bytes, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        read(data)
