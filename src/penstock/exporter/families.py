"""Metrics and their samples, and the text for Prometheus. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from penstock.telemetry.families import label_pairs

VALUE_CHARS_MAX = 128
"""Of a label's value: names come from drivers and from other processes."""

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(StrEnum):
    """As Prometheus names them."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is, for its head and for the reference.

    Args:
        name: all of it, with its unit, and `_total` behind a counter's.
        source: what is read for it: gpu, host, engines or exporter.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    source: str = ""


@dataclass(slots=True)
class Family:
    """A metric with its samples, each with the values of its labels."""

    metric: Metric
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def add(self, value: float, *labels: str) -> None:
        """One sample more; a value that is no number is left out."""
        if math.isfinite(value):
            self.samples.append((labels, value))


class Families:
    """The families of one reading, made as they are needed; those without a sample are not shown."""

    def __init__(self) -> None:
        self._by_name: dict[str, Family] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """One sample more, with one value for each of the metric's labels."""
        family = self._by_name.get(metric.name)
        if family is None:
            family = self._by_name[metric.name] = Family(metric)
        family.add(value, *labels)

    def __iter__(self) -> Iterator[Family]:
        return iter([family for family in self._by_name.values() if family.samples])


def exposition(families: Iterable[Family]) -> bytes:
    """The text for Prometheus, version 0.0.4."""
    return "".join(map(_text, families)).encode()


def _text(family: Family) -> str:
    metric = family.metric
    head = f"# HELP {metric.name} {metric.text}\n# TYPE {metric.name} {metric.kind}\n"
    lines = [
        f"{metric.name}{_labelled(metric.labels, values)} {_number(value)}\n"
        for values, value in family.samples
    ]
    return "".join((head, *lines))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


@lru_cache(maxsize=8192)
def _labelled(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Labels in their braces; the same series are written at each scrape."""
    pairs = label_pairs(names, [value[:VALUE_CHARS_MAX] for value in values])
    return f"{{{pairs}}}" if names else ""
