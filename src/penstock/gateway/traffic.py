"""What is under way at each replica: how much of it there is, when its bytes came, and how it is cut off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from penstock.core.errors import EngineError
from penstock.policy.stall import Work


class ReplicaStalledError(EngineError):
    """The replica made no progress, and the attempt was taken from it."""

    code = "engine_stalled"


class UnderWay(Protocol):
    """An attempt at a replica."""

    @property
    def streams(self) -> bool:
        """Whether its answer is streamed."""

    @property
    def waits_for_client(self) -> bool:
        """Whether it is its client that does not read."""

    @property
    def heard_s(self) -> float:
        """When a byte of a good answer came last; minus infinity where none has."""

    def cut(self, error: EngineError) -> None:
        """Ends it by `error`, if it has been sent."""


class Traffic:
    """The attempts under way, by the name of their replica. Each is a permit that is held."""

    def __init__(self) -> None:
        self.in_flight: dict[str, int] = {}
        self._under_way: dict[str, set[UnderWay]] = {}
        self._heard_s: dict[str, float] = {}  # on attempts that are over

    def begin(self, name: str, attempt: UnderWay) -> None:
        """Counts one more at this replica, until its last byte or its cancel."""
        self.in_flight[name] = self.in_flight.get(name, 0) + 1
        self._under_way.setdefault(name, set()).add(attempt)

    def end(self, name: str, attempt: UnderWay) -> None:
        """Counts one less."""
        self._under_way[name].remove(attempt)
        self._heard_s[name] = max(self._heard_s.get(name, -math.inf), attempt.heard_s)
        self.in_flight[name] -= 1
        if not self.in_flight[name]:
            del self.in_flight[name], self._under_way[name]

    def forget(self, name: str) -> None:
        """The replica is gone, or was started anew: what was heard of it was another process."""
        self._heard_s.pop(name, None)

    def work(self, name: str) -> Work:
        """What this replica has now; looks at each attempt."""
        heard_s = self._heard_s.get(name, -math.inf)
        requests = streams = 0
        for attempt in self._under_way.get(name, ()):
            heard_s = max(heard_s, attempt.heard_s)
            if not attempt.waits_for_client:
                requests += 1
                streams += attempt.streams
        return Work(requests, streams, heard_s)

    def cut(self, name: str, error: Callable[[], EngineError]) -> None:
        """Takes from a replica what it has, each by an error of its own."""
        for attempt in tuple(self._under_way.get(name, ())):
            attempt.cut(error())
