"""Who looks at a run while it lasts: a terminal, a notebook, or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.bench.load.health import Progress


@dataclass(frozen=True, slots=True)
class Expected:
    """How much is to come.

    Args:
        title: what is run, in a few words.
        duration_s: of the load, the warm-up with it; None where only a number of requests ends it.
        requests: at most; None where only time ends it.
        warmup_s: at the beginning.
    """

    title: str
    duration_s: float | None
    requests: int | None
    warmup_s: float

    def part_done(self, progress: Progress) -> float:
        """How much is done, 0 to 1."""
        parts = [0.0]
        if self.duration_s:
            parts.append(progress.elapsed_s / self.duration_s)
        if self.requests:
            parts.append((progress.completed + progress.failed) / self.requests)
        return min(1.0, max(parts))

    def left_s(self, progress: Progress) -> float | None:
        """How long it will still take, seconds; None while nobody can tell."""
        done = self.part_done(progress)
        by_work = progress.elapsed_s * (1 - done) / done if done > 0 else None
        by_time = max(0.0, self.duration_s - progress.elapsed_s) if self.duration_s else None
        known = [left for left in (by_work, by_time) if left is not None]
        return min(known) if known else None


class Watch(Protocol):
    """Is told what goes on."""

    def phase(self, says: str) -> None:
        """Something else begins, such as counting tokens."""

    def begin(self, expected: Expected) -> None:
        """The load begins."""

    def progress(self, progress: Progress, beside: Mapping[str, float]) -> None:
        """How far it has come, some times a second; `beside` are the newest figures of engines."""

    def end(self) -> None:
        """The load is over."""


class Nobody:
    """Looks at nothing."""

    def phase(self, says: str) -> None:
        """Nothing."""

    def begin(self, expected: Expected) -> None:
        """Nothing."""

    def progress(self, progress: Progress, beside: Mapping[str, float]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
