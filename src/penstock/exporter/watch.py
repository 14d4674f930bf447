"""One source, read again and again in a thread of its own: a driver or a disk that hangs holds up nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

_Found = TypeVar("_Found")

STALE_AFTER_READS = 3
STALE_AFTER_S_MIN = 5.0
"""A reading is shown for so long; what is older says nothing of now."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[_Found]):
    """What was read.

    Args:
        found: of the source.
        at_s: when it was there.
        took_s: how long that took.
    """

    found: _Found
    at_s: float
    took_s: float


class Watch(Generic[_Found]):
    """Reads a source from `start` on, for as long as this process lives, or until `stop`.

    Args:
        name: of the source.
        read: reads it once; may take its time.
        every_s: seconds from the start of one reading to the next.
        now_s: a clock.
        on_error: told of an exception, which `read` should not raise.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], _Found],
        every_s: float,
        now_s: Callable[[], float],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self.name = name
        self.reads = 0
        self._read = read
        self._every_s = every_s
        self._now_s = now_s
        self._on_error = on_error
        self._latest: Reading[_Found] | None = None
        self._begun_s: float | None = None
        self._stop = threading.Event()
        # nobody waits for it: a thread that hangs in the driver can't be ended
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._begun_s = self._now_s()
        self._thread.start()

    def stop(self, within_s: float = 1.0) -> None:
        """Reads no more."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def read_once(self) -> None:
        """Reads now, in this thread."""
        begun_s = self._now_s()
        try:
            found = self._read()
        except Exception as error:  # a source is never a reason to end
            self._on_error(self.name, error)
            return
        at_s = self._now_s()
        self._latest = Reading(found, at_s, at_s - begun_s)
        self.reads += 1

    @property
    def latest(self) -> Reading[_Found] | None:
        """The newest reading; None before the first, and where it is too old."""
        latest = self._latest
        return None if latest is None or self.silent_s > self.stale_after_s else latest

    @property
    def silent_s(self) -> float:
        """Seconds since the last reading, or since the start."""
        since_s = self._latest.at_s if self._latest is not None else self._begun_s
        return 0.0 if since_s is None else self._now_s() - since_s

    @property
    def stale_after_s(self) -> float:
        """How old a reading may be."""
        return max(STALE_AFTER_S_MIN, STALE_AFTER_READS * self._every_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            begun_s = self._now_s()
            self.read_once()
            self._stop.wait(max(0.0, begun_s + self._every_s - self._now_s()))
