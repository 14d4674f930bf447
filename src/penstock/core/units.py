"""Durations and sizes as people write them: `500ms`, `2s`, `10m`; `512KB`, `10MB`, `1GiB`."""

from __future__ import annotations

import re

_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_QUANTITY = re.compile(r"\s*(\d+(?:_\d+)*(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_duration_s(text: str | int | float) -> float:
    """A duration in seconds, at least 0.

    Args:
        text: a number of seconds, or a number with one of the units ms, s, m, h, d.

    Raises:
        ValueError: `text` is no such duration.
    """
    number, unit = _split(text, "a duration such as 500ms, 2s or 10m")
    if unit and unit not in _DURATION_S:
        raise ValueError(f"unit {unit!r} is none of {', '.join(_DURATION_S)}")
    return number * _DURATION_S.get(unit, 1.0)


def parse_size_bytes(text: str | int | float) -> int:
    """A size in whole bytes, at least 0.

    Args:
        text: a number of bytes, or a number with one of the units B, KB, MB, GB, TB, KiB, MiB, GiB, TiB.

    Raises:
        ValueError: `text` is no such size.
    """
    number, unit = _split(text, "a size such as 512KB, 10MB or 1GiB")
    if unit and unit.upper() not in _SIZE_BYTES:
        raise ValueError(f"unit {unit!r} is none of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return int(number * _SIZE_BYTES.get(unit.upper(), 1))


def format_duration(seconds: float) -> str:
    """A duration for people, in the largest unit that keeps it short: `0.25s`, `12s`, `3m`, `2h`."""
    if seconds < 120:
        return f"{seconds:.3g}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h"


def format_size(size_bytes: int) -> str:
    """A size for people in decimal units: `512 B`, `10.0 MB`."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _split(text: str | int | float, expected: str) -> tuple[float, str]:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"expected {expected}")
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"expected {expected}")
    return float(match[1].replace("_", "")), match[2]
