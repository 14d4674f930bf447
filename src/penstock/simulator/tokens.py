"""The simulated tokenizer: a fixed rule on UTF-8 bytes that counts exactly and loses nothing.

A token is up to five bytes that are not white space, with the one space before them, or a single byte of
white space. So a text of short words has one token per word, and a token's id is its own bytes: no table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

_PIECE = re.compile(rb" ?[^\s\x00]{1,5}|[\s\x00]")
TOKEN_ID_MAX = 2**48 - 1
_KEY_BYTES = 8


def pieces(text: bytes) -> list[bytes]:
    """The tokens of `text`; joined they are `text` again."""
    return _PIECE.findall(text)


def token_ids(text: bytes) -> list[int]:
    """The ids of the tokens of `text`: each its bytes as one big-endian number."""
    return [int.from_bytes(piece, "big") for piece in pieces(text)]


def text_of(ids: Iterable[int]) -> bytes:
    """The text of token ids.

    Raises:
        ValueError: an id is negative or above `TOKEN_ID_MAX`.
    """
    return b"".join(map(_piece_of, ids))


def _piece_of(token_id: int) -> bytes:
    if not 0 <= token_id <= TOKEN_ID_MAX:
        raise ValueError(f"token id {token_id} is out of range (0 to {TOKEN_ID_MAX})")
    return token_id.to_bytes(max(1, (token_id.bit_length() + 7) // 8), "big")


def block_keys(tokens: Sequence[bytes], block_size: int) -> tuple[int, ...]:
    """For each full block of `tokens`, a hash of all tokens up to its end."""
    running = hashlib.blake2b(digest_size=_KEY_BYTES)
    keys = []
    for end in range(block_size, len(tokens) + 1, block_size):
        running.update(b"\xff".join(tokens[end - block_size : end]) + b"\xff")
        keys.append(int.from_bytes(running.digest(), "big"))
    return tuple(keys)
