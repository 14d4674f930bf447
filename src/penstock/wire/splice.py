"""Changes to a JSON object's bytes that leave every other byte as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)


def replace_member(body: bytes, key: str, value: bytes) -> bytes:
    """`body` with the value of its top-level member `key` replaced; the last one, where the key comes twice.

    Args:
        body: a JSON object that has been parsed before.
        key: the member's name, of plain ASCII.
        value: JSON text.

    Raises:
        KeyError: there is no such member.
    """
    spans = [span for name, *span in _members(body) if _spells(name, key)]
    if not spans:
        raise KeyError(key)
    start, end = spans[-1]
    return body[:start] + value + body[end:]


def insert_member(body: bytes, key: str, value: bytes) -> bytes:
    """`body` with the member `key` put first; it must not have it yet."""
    start = body.index(b"{") + 1
    comma = b"" if body[start:].lstrip()[:1] == b"}" else b","
    return b'%b"%b":%b%b%b' % (body[:start], key.encode(), value, comma, body[start:])


def _spells(name: bytes, key: str) -> bool:
    if b"\\" not in name:
        return name == key.encode()
    return bool(json.loads(f'"{name.decode(errors="replace")}"', strict=False) == key)


def _members(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, and begin and end of the value, of each top-level member."""
    depth = 0
    name = b""
    start = 0
    for match in _TOKEN.finditer(body):
        token = match[0]
        if depth == 1 and token == b":":
            start = match.end()
        elif depth == 1 and token in (b",", b"}"):
            if start:
                yield _trimmed(body, name, start, match.start())
            start = 0
        elif depth == 1 and not start and token[:1] == b'"':
            name = token[1:-1]
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))


def _trimmed(body: bytes, name: bytes, start: int, end: int) -> tuple[bytes, int, int]:
    value = body[start:end]
    return name, start + len(value) - len(value.lstrip()), start + len(value.rstrip())
