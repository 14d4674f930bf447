"""Lines through samples: whether something grows, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line by least squares; 0 for fewer than two different `xs`."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if not spread:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one thing stayed within its bound."""

    name: str
    found: float
    bound: float
    unit: str

    @property
    def good(self) -> bool:
        return self.found <= self.bound

    def tell(self) -> str:
        word = "ok  " if self.good else "FAIL"
        return f"{word} {self.name}: {self.found:,.1f} {self.unit}, at most {self.bound:,.1f}"


def growth(name: str, unit: str, xs: Sequence[float], ys: Sequence[float], bound: float) -> Verdict:
    """How much a line through the samples rises from the first to the last."""
    return Verdict(name, slope(xs, ys) * (xs[-1] - xs[0]), bound, unit)
