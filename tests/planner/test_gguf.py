"""GGUF headers, whole and damaged."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.model_files import describe
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.gguf import HEADER_BYTES_MAX, Header, Length, read_header
from penstock.planner.gguf_model import read_gguf
from penstock.planner.quantization import STORED, own_method, weight_bytes
from penstock.planner.shapes import Architecture, KvLayers, PlanError
from tests.planner.ggufs import LLAMA, TENSORS, gguf

DEMO = DEMO_FOLDER / "demo.gguf"


def header(data: bytes) -> Header:
    return read_header(io.BytesIO(data), "x.gguf")


def read(metadata: dict[str, Any], tensors: Any = TENSORS) -> Architecture:
    return read_gguf(header(gguf(metadata, tensors)), "x.gguf")


def test_the_demo_file_has_the_parameters_of_its_configuration() -> None:
    file, config = describe(str(DEMO)).architecture, describe(str(DEMO_FOLDER)).architecture

    assert (file.parameters, file.kv, file.tied) == (config.parameters, config.kv, True)


def test_the_demo_file_is_its_weights_and_a_header() -> None:
    weights = weight_bytes(describe(str(DEMO)).architecture, STORED)

    assert 0 < DEMO.stat().st_size - weights < 200_000


def test_weights_take_what_their_kind_says() -> None:
    found = read(LLAMA)

    assert own_method(found) is STORED
    assert weight_bytes(found, STORED) == 256 * 512 * (144 + 210) // 256 + 256 * 256 * 34 // 32 + 256 * 4
    assert (found.vocabulary, found.tied, found.context_max) == (512, False, 2048)


def test_long_lists_are_passed_over_and_short_ones_kept() -> None:
    found = header(gguf({"long": ["x"] * 3, "numbers": [1, 2], "many": [7] * 5000}, []))

    assert found.metadata == {"long": Length(3), "numbers": [1, 2], "many": Length(5000)}


def test_layers_may_differ_in_their_kv_heads() -> None:
    found = read({**LLAMA, "llama.attention.head_count_kv": [0, 2]})

    assert found.kv == (KvLayers(1, 2, 128),)


def test_gemma_has_windows_in_most_layers_and_llama_in_none() -> None:
    gemma = {name.replace("llama", "gemma3"): one for name, one in LLAMA.items()}
    gemma |= {
        "general.architecture": "gemma3",
        "gemma3.block_count": 6,
        "gemma3.attention.sliding_window": 512,
    }

    assert read(gemma).kv == (KvLayers(5, 2, 128, 512), KvLayers(1, 2, 128))
    assert read({**LLAMA, "llama.attention.sliding_window": 512}).kv == (KvLayers(2, 2, 128),)


def test_a_latent_cache_is_what_the_file_says_it_compresses_to() -> None:
    latent = {name.replace("llama", "deepseek2"): one for name, one in LLAMA.items()}
    latent |= {
        "general.architecture": "deepseek2",
        "deepseek2.attention.key_length": 576,
        "deepseek2.attention.key_length_mla": 192,
    }

    assert read(latent).kv == (KvLayers(2, 1, 576),)


def test_experts_that_a_token_does_not_see_are_not_active() -> None:
    mixture = {**LLAMA, "llama.expert_count": 8, "llama.expert_used_count": 2}
    found = read(mixture, [*TENSORS, ("blk.0.ffn_up_exps.weight", (256, 512, 8), 12)])

    assert found.parameters - found.active_parameters == 256 * 512 * 6


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (
            {**LLAMA, "general.architecture": "qwen9"},
            "GGUF architecture 'qwen9' is not known here; the nearest",
        ),
        ({"general.architecture": 3}, "general.architecture is missing"),
        ({"general.architecture": "llama"}, "llama.block_count is missing"),
        ({**LLAMA, "llama.block_count": 0}, "llama.block_count: expected a whole number from 1"),
        (
            {**LLAMA, "llama.attention.head_count_kv": [1]},
            "llama.attention.head_count_kv: expected 2 entries",
        ),
    ],
)
def test_a_file_that_can_not_be_planned_says_why(metadata: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        read(metadata)

    assert said in caught.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends amid its header, after 0 bytes"),
        (b"PK\x03\x04....", "it begins with b'PK"),
        (gguf(LLAMA, TENSORS)[:-1], "ends amid its header"),
        (gguf(LLAMA, TENSORS, version=1), "version 1 or big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "1099511627776 tensors, of at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40), "bytes in a text, of at most"),
        (gguf(LLAMA, [("x", (1,), 99)]), "'x' is of the unknown kind 99"),
        (gguf({"a": 1}, [])[:-8] + struct.pack("<II", 77, 1), "a value of the unknown type 77"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        header(data)

    assert said in caught.value.message
    assert caught.value.hint


def test_a_header_without_end_is_not_read_to_the_end() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            self.taken += size
            return b"\x01" * size

    list_of_bytes = (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcIIQ", 1, b"a", 9, 0, HEADER_BYTES_MAX)
    )
    endless = Endless()

    class Both(io.RawIOBase):
        head = io.BytesIO(list_of_bytes)

        def read(self, size: int = -1) -> bytes:
            return self.head.read(size) or endless.read(size)

    with pytest.raises(PlanError, match="its header has more than"):
        read_header(Both(), "x")  # type: ignore[arg-type]
    assert endless.taken <= HEADER_BYTES_MAX


WHOLE = gguf(LLAMA, TENSORS)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_any_byte_changed_gives_an_architecture_or_an_error_of_ours(at: int, byte: int) -> None:
    data = bytearray(WHOLE)
    data[at] = byte
    try:
        found = read_gguf(header(bytes(data)), "x.gguf")
    except PlanError:
        return

    assert found.layers >= 0


def test_the_file_is_not_read_beyond_its_header() -> None:
    with Path(DEMO).open("rb") as file:
        read_header(file, "demo")

        assert file.tell() < DEMO.stat().st_size // 10
