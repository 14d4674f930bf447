"""What the workers of one gateway tell each other of themselves: one file each, written now and then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

# A worker that has said nothing for so long is gone.
FRESH_S = 5.0


class Post(msgspec.Struct):
    """What one worker says: its number, what can be seen of it, and its metrics."""

    worker: int
    view: dict[str, Any]
    metrics: str


class Board:
    """The files of one folder.

    Args:
        folder: `Home.workers`.
        worker: the number of this one, from 0.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._own = folder / f"{worker}.json"

    def post(self, view: dict[str, Any], metrics: str) -> None:
        """Replaces what this worker says of itself.

        Raises:
            OSError: it can't be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fresh = self._own.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(Post(self._worker, view, metrics)))
        fresh.replace(self._own)

    def others(self) -> list[Post]:
        """What the other workers said last, by their numbers; reads their files, so not for an event loop."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                if path != self._own and time.time() - path.stat().st_mtime < FRESH_S:
                    found.append(msgspec.json.decode(path.read_bytes(), type=Post))
            except (OSError, ValueError):
                continue
        return found

    def leave(self) -> None:
        """Takes this worker's file away."""
        self._own.unlink(missing_ok=True)
