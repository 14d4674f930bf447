"""Lines of a log that come again and again: a few are written, the rest is counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# So many of one kind in so long: a fault that each request meets stays readable, and says how often it was met.
WRITTEN_MAX = 5
WINDOW_S = 60.0
# Kinds of lines that are remembered; the one seen longest ago is forgotten.
KINDS_MAX = 256


@dataclass(slots=True)
class _Kind:
    begun_s: float
    written: int = 0
    held_back: int = 0


class Repeats:
    """Says which lines are written.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()

    def passes(self, key: Hashable) -> int | None:
        """How many lines of this kind were held back since the last one; None where this one is held back too."""
        now_s = self._clock()
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(now_s)
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        if now_s - kind.begun_s >= WINDOW_S:
            kind.begun_s, kind.written = now_s, 0
        if kind.written >= WRITTEN_MAX:
            kind.held_back += 1
            return None
        kind.written += 1
        held_back, kind.held_back = kind.held_back, 0
        return held_back
