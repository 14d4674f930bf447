"""How far a download is: what threads count, and what somebody who watches is told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.planner.repository import Listed

WINDOW_S = 10.0
"""Over which a rate is taken: short enough to follow a line that changes, long enough not to flicker."""

NOTES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is.

    Args:
        total_bytes: of all files.
        have_bytes: of them here, whole or in part.
        fetched_bytes: that this run received.
        checked_bytes: that this run read again for their checksums.
        files: how many there are.
        ended: how many are whole and where they belong.
        under_way: name, bytes here and bytes in all of those that are being fetched.
    """

    total_bytes: int
    have_bytes: int
    fetched_bytes: int
    checked_bytes: int
    files: int
    ended: int
    under_way: tuple[tuple[str, int, int], ...]


class Tally:
    """Counts, from several threads at once."""

    def __init__(self, files: Sequence[Listed]) -> None:
        self._lock = threading.Lock()
        self._total_bytes = sum(file.size_bytes for file in files)
        self._have = {file.name: 0 for file in files}
        self._under_way: dict[str, Listed] = {}
        self._ended = 0
        self._fetched_bytes = 0
        self._checked_bytes = 0
        self._notes: deque[str] = deque(maxlen=NOTES_MAX)

    def found(self, file: Listed, have_bytes: int) -> None:
        """So much of a file is here."""
        with self._lock:
            self._have[file.name] = have_bytes

    def received(self, file: Listed, count_bytes: int) -> None:
        """So much more of it has come."""
        with self._lock:
            self._have[file.name] += count_bytes
            self._fetched_bytes += count_bytes
            self._under_way[file.name] = file

    def checked(self, count_bytes: int) -> None:
        """So much was read again."""
        with self._lock:
            self._checked_bytes += count_bytes

    def ended(self, file: Listed) -> None:
        """It is whole and where it belongs."""
        with self._lock:
            self._have[file.name] = file.size_bytes
            self._under_way.pop(file.name, None)
            self._ended += 1

    def note(self, line: str) -> None:
        """Something to tell people."""
        with self._lock:
            self._notes.append(line)

    def notes(self) -> tuple[str, ...]:
        """What is to be told, once."""
        with self._lock:
            told = tuple(self._notes)
            self._notes.clear()
            return told

    def standing(self) -> Standing:
        """How far it is now."""
        with self._lock:
            under_way = tuple(
                (name, self._have[name], file.size_bytes) for name, file in self._under_way.items()
            )
            return Standing(
                self._total_bytes,
                sum(self._have.values()),
                self._fetched_bytes,
                self._checked_bytes,
                len(self._have),
                self._ended,
                under_way,
            )


class Pace:
    """Bytes a second over the last `WINDOW_S`, from what has been received at some times."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, fetched_bytes: int, now_s: float) -> float:
        """Bytes a second, with what is received by now; 0 where nothing can be said."""
        self._seen.append((now_s, fetched_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - WINDOW_S:
            self._seen.popleft()
        began_s, before = self._seen[0]
        return (fetched_bytes - before) / (now_s - began_s) if now_s > began_s else 0.0


def left_s(standing: Standing, rate: float) -> float | None:
    """Seconds until all is here at that rate; None where nothing can be said."""
    return (standing.total_bytes - standing.have_bytes) / rate if rate > 0 else None
