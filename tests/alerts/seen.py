"""Alerts that fire, each once from its beginning to its end, and when that was seen first."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fired:
    """An alert that fired.

    Args:
        model: that it is about; empty where it is about something else.
        at_s: monotonic seconds.
    """

    name: str
    model: str
    at_s: float


class Seen:
    """What was seen so far; told again and again of an alert that goes on, it counts once."""

    def __init__(self) -> None:
        self._first: dict[str, Fired] = {}
        self._lock = threading.Lock()

    def note(self, labels: Mapping[str, str], begun: str) -> None:
        """Notes that an alert fires which has begun then."""
        fired = Fired(labels["alertname"], labels.get("model", ""), time.monotonic())
        with self._lock:
            self._first.setdefault(f"{sorted(labels.items())} {begun}", fired)

    def since(self, at_s: float) -> list[Fired]:
        """Those that were seen first then or later."""
        with self._lock:
            return [fired for fired in self._first.values() if fired.at_s >= at_s]
