"""A timer that rings at a time of the machine's monotonic clock, to some tens of microseconds.

Event loops count in whole milliseconds; a load that is sent on such ticks is late by up to two of them. Linux has
timers of nanoseconds that an event loop can wait for as for a socket; elsewhere the loop's own timer must do, and
rings within 2 ms. Times are absolute, so lateness never adds up.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import sys
import time
from collections.abc import Callable

_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_ABSOLUTE = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Pacer:
    """Calls `on_ring` once at the time last set; `close` lets go of the timer.

    Args:
        on_ring: called on the event loop.
        exact: whether the kernel's timers are used where there are any.
    """

    def __init__(self, on_ring: Callable[[], None], *, exact: bool = True) -> None:
        self._on_ring = on_ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._fd = _timer_fd() if exact and sys.platform == "linux" else -1
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._rings)

    def set(self, due_s: float) -> None:
        """Rings at `due_s` of `time.monotonic()`; at once where that has passed."""
        if self._fd >= 0:
            _set_timer(self._fd, max(due_s, 1e-9))
            return
        if self._timer is not None:
            self._timer.cancel()
        self._await(due_s)

    def close(self) -> None:
        """Rings no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _await(self, due_s: float) -> None:
        """The loop's timer may ring early by what its clock leaves out; then it is set again."""
        left_s = due_s - time.monotonic()
        if left_s > 0:
            self._timer = self._loop.call_later(math.ceil(left_s * 1000) / 1000, self._await, due_s)
        else:
            self._timer = self._loop.call_soon(self._on_ring)

    def _rings(self) -> None:
        os.read(self._fd, 8)
        self._on_ring()


_libc = ctypes.CDLL(None, use_errno=True)


def _timer_fd() -> int:
    """A timer of the kernel on the clock of `time.monotonic`; -1 where it gives none."""
    if not hasattr(_libc, "timerfd_create"):
        return -1
    return int(_libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC))


def _set_timer(fd: int, due_s: float) -> None:
    spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(int(due_s), int(due_s % 1 * 1e9)))
    if _libc.timerfd_settime(fd, _ABSOLUTE, ctypes.byref(spec), None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")
