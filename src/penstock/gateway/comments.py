"""`Comments`: what a stream's client is sent while its engine is silent, so that nobody between takes it for dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def _leave_it() -> None:
    pass


class Comments:
    """Fills silence with comments, from before a stream begins to its end.

    Args:
        every_s: silence after which it is due.
        clock: monotonic seconds.
        write: sends one; whoever writes the stream puts its own way in its place.
    """

    __slots__ = ("_clock", "_every_s", "_loop", "_timer", "last_s", "write")

    def __init__(
        self, every_s: float, clock: Callable[[], float], write: Callable[[], None] = _leave_it
    ) -> None:
        self.write = write
        self._every_s = every_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(every_s, self._due)
        self.last_s = clock()  # when something was written

    def hush(self) -> None:
        """Sends nothing until somebody has a way to: what comes is no stream."""
        self.write = _leave_it

    def stop(self) -> None:
        """Watches no longer."""
        self.hush()  # it refers to what refers to us: not left to the garbage collector
        self._timer.cancel()

    def _due(self) -> None:
        due_s = self.last_s + self._every_s
        now_s = self._clock()
        if now_s >= due_s:
            self.write()
            self.last_s, due_s = now_s, now_s + self._every_s
        self._timer = self._loop.call_later(due_s - now_s, self._due)
