"""A timer that is moved often and rings seldom.

Making and cancelling a timer of the event loop costs some microseconds, as much as reading a small response.
So the timer of the loop is left where it is when a time limit moves into the future, and moved on when it rings
too early: a connection that is busy costs one timer in a while, not one or two for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

# Loops have clocks of a millisecond; what is due within half of one is due.
EARLY_S = 0.0005


class Alarm:
    """Calls `on_due` at the time last set, on the loop's clock; it is called once for each setting, at most."""

    __slots__ = ("_due_s", "_loop", "_rings_s", "_timer", "on_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self.on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._rings_s = inf
        self._due_s = inf

    def set(self, due_s: float) -> None:
        """Calls at `due_s`, and at no other time."""
        self._due_s = due_s
        if due_s < self._rings_s:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_s = due_s
            self._timer = self._loop.call_at(due_s, self._rings)

    def clear(self) -> None:
        """Does not call until it is set again."""
        self._due_s = inf

    def stop(self) -> None:
        """Lets go of the timer: for when it will not be set soon, as its memory is worth more than its making."""
        self._due_s = self._rings_s = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Lets go of the timer and of `on_due`."""
        self.stop()
        self.on_due = None

    def _rings(self) -> None:
        self._timer = None
        self._rings_s = inf
        due_s = self._due_s
        if due_s is inf:
            return
        if due_s - self._loop.time() > EARLY_S:
            self.set(due_s)
            return
        self._due_s = inf
        if self.on_due is not None:
            self.on_due()
