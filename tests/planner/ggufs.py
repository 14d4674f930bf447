"""GGUF files made by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

Tensors = Sequence[tuple[str, tuple[int, ...], int]]


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(one: Any) -> bytes:
    """A value with its type before it."""
    if isinstance(one, str):
        return struct.pack("<I", 8) + text(one)
    if isinstance(one, bool):
        return struct.pack("<I?", 7, one)
    if isinstance(one, float):
        return struct.pack("<If", 6, one)
    if isinstance(one, list):
        items = b"".join(value(item)[4:] for item in one)
        kind = struct.unpack("<I", value(one[0])[:4])[0] if one else 4
        return struct.pack("<IIQ", 9, kind, len(one)) + items
    return struct.pack("<II", 4, one)


def gguf(metadata: Mapping[str, Any], tensors: Tensors, *, version: int = 3, data: int = 0) -> bytes:
    """The header of a file, and `data` bytes behind it; every tensor's data begin at the same place."""
    keys = b"".join(text(name) + value(one) for name, one in metadata.items())
    infos = b"".join(
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, 0)
        for name, shape, kind in tensors
    )
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + keys + infos + bytes(data)


LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 2048,
    "tokenizer.ggml.tokens": ["a", "b"] * 256,
}
TENSORS = [
    ("token_embd.weight", (256, 512), 12),
    ("blk.0.attn_q.weight", (256, 256), 8),
    ("blk.0.attn_norm.weight", (256,), 0),
    ("rope_freqs.weight", (32,), 0),
    ("output.weight", (256, 512), 14),
]

DATA_BYTES = 32 + 256 * 512 * 210 // 256
"""As much as `TENSORS` need, and padding."""
