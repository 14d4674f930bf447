"""Families of metrics, and how their samples are written in Prometheus's text format, version 0.0.4.

`prometheus-client` would take ten times as long for a page of 50 models, on the loop that carries the streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from penstock.core.times import Times


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name.

    Args:
        name: with its unit, and `_total` where it is a counter.
        text: what it tells, one line.
        labels: their names, in the order in which values are given.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()

    def lines(self, samples: Iterable[tuple[Sequence[str], float]]) -> Iterator[str]:
        """Its description, and a line for each sample: the values of its labels, and its own."""
        yield from self.head()
        for values, value in samples:
            yield f"{self.name}{self.labelled(values)} {number(value)}"

    def single(self, value: float) -> Iterator[str]:
        """Its lines where it has no labels."""
        return self.lines(((), value) for _ in range(1))

    def times(self, samples: Iterable[tuple[Sequence[str], Times]]) -> Iterator[str]:
        """Its lines where it is a histogram."""
        yield from self.head()
        for values, times in samples:
            labels = self._pairs(values)
            for bound, count in zip(_bounds_text(times.bounds), accumulate(times.counts), strict=True):
                yield f'{self.name}_bucket{{{labels},le="{bound}"}} {count}'
            yield f"{self.name}_count{{{labels}}} {sum(times.counts)}"
            yield f"{self.name}_sum{{{labels}}} {number(times.sum_s)}"

    def head(self) -> Iterator[str]:
        """What comes before its samples."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"

    def labelled(self, values: Sequence[str]) -> str:
        """The labels with these values, in their braces."""
        return f"{{{self._pairs(values)}}}" if values else ""

    def _pairs(self, values: Sequence[str]) -> str:
        return label_pairs(self.labels, values)


def label_pairs(names: Sequence[str], values: Sequence[str]) -> str:
    """Labels with their values, as they stand between braces."""
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)])


def number(value: float) -> str:
    """A value as Prometheus reads it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


@lru_cache(maxsize=64)
def _bounds_text(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """The bounds as Prometheus writes them, with the one of everything."""
    return (*map(repr, bounds), "+Inf")


@lru_cache(maxsize=8192)
def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
