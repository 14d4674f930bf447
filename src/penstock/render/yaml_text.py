"""YAML, as much of it as configuration files need: mappings, lists, numbers and text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Text that no reader takes for anything else.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def yaml_text(value: Mapping[str, Any], head: str = "") -> str:
    """`value` as YAML, behind a comment of one line."""
    lines = [f"# {head}"] if head else []
    return "\n".join([*lines, *_lines(value, ""), ""])


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _entry(f"{indent}{_scalar(key)}:", inner, indent)
    else:
        for item in value:
            if isinstance(item, Mapping) and item:
                first, *rest = _lines(item, f"{indent}  ")
                yield f"{indent}- {first[len(indent) + 2 :]}"
                yield from rest
            else:
                yield f"{indent}- {_scalar(item)}"


def _entry(key: str, inner: Any, indent: str) -> Iterator[str]:
    if isinstance(inner, str) and "\n" in inner:
        yield f"{key} |-"
        yield from (f"{indent}  {line}".rstrip() for line in inner.split("\n"))
    elif isinstance(inner, Mapping | list | tuple) and inner:
        yield key
        yield from _lines(inner, f"{indent}  ")
    else:
        yield f"{key} {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, Mapping | list | tuple):
        return "{}" if isinstance(value, Mapping) else "[]"
    return json.dumps(value, ensure_ascii=False)
