"""Families of metrics, and how their samples are written in Prometheus's text format, by gateway and exporter. Pure.

`prometheus-client` would take ten times as long for a page of 50 models, on the loop that carries the streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from penstock.core.times import Times

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Of a label's value that was read: names come from drivers and from other processes.
VALUE_CHARS_MAX = 128
# Whole numbers up to here are exact as Prometheus keeps them.
_WHOLE_MAX = 2**53

Kind = Literal["counter", "gauge", "histogram"]
# The values of its labels, and its own.
Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name.

    Args:
        name: with its unit, and `_total` where it is a counter.
        text: what it tells, one line.
        labels: their names, in the order in which values are given.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()

    def lines(self, samples: Iterable[Sample]) -> Iterator[str]:
        """Its description, and a line for each sample: the values of its labels, and its own."""
        yield from self.head()
        for values, value in samples:
            labels = f"{{{_pairs(self.labels, values)}}}" if values else ""
            yield f"{self.name}{labels} {number(value)}"

    def single(self, value: float) -> Iterator[str]:
        """Its lines where it has no labels."""
        return self.lines(((), value) for _ in range(1))

    def times(self, samples: Iterable[tuple[tuple[str, ...], Times]]) -> Iterator[str]:
        """Its lines where it is a histogram."""
        yield from self.head()
        for values, times in samples:
            labels = _pairs(self.labels, values)
            for bound, count in zip(_bounds_text(times.bounds), accumulate(times.counts), strict=True):
                yield f'{self.name}_bucket{{{labels},le="{bound}"}} {count}'
            yield f"{self.name}_count{{{labels}}} {sum(times.counts)}"
            yield f"{self.name}_sum{{{labels}}} {number(times.sum_s)}"

    def head(self) -> Iterator[str]:
        """What comes before its samples."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"


Gathered = tuple[Family, list[Sample]]


class Families:
    """What was read, by family, in the order in which it came; what has no sample is not shown."""

    def __init__(self) -> None:
        self._found: dict[str, Gathered] = {}

    def add(self, family: Family, value: float, *labels: str) -> None:
        """One sample more, with a value for each of the family's labels; one that is no number is left out."""
        if math.isfinite(value):
            _, samples = self._found.setdefault(family.name, (family, []))
            samples.append((tuple([label[:VALUE_CHARS_MAX] for label in labels]), value))

    def __iter__(self) -> Iterator[Gathered]:
        return iter(self._found.values())


def exposition(families: Iterable[Gathered]) -> bytes:
    """The text for Prometheus, version 0.0.4."""
    lines = (line for family, samples in families for line in family.lines(samples))
    return "".join(f"{line}\n" for line in lines).encode()


@lru_cache(maxsize=8192)
def _pairs(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Labels with their values, as they stand between braces; the same series are written at each scrape."""
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)])


def number(value: float) -> str:
    """A value as Prometheus reads it."""
    if -_WHOLE_MAX < value < _WHOLE_MAX and value == int(value):
        return str(int(value))
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


@lru_cache(maxsize=64)
def _bounds_text(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """The bounds as Prometheus writes them, with the one of everything."""
    return (*map(repr, bounds), "+Inf")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
