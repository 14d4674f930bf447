"""What the simulated engine was asked, for tests to look at: counts, and the last requests as received."""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

_BODY_BYTES_MAX = 2**20  # the log as a whole stays bounded: this much times the number of entries


class Entry:
    """One request to a generating route; times are seconds since the epoch."""

    __slots__ = (
        "body",
        "body_bytes",
        "ended_at",
        "headers",
        "path",
        "request_id",
        "started_at",
        "state",
        "status",
        "tokens",
    )

    def __init__(
        self,
        request_id: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        at: float,
    ) -> None:
        self.request_id = request_id
        self.path = path
        self.headers = headers
        self.body = body[:_BODY_BYTES_MAX]
        self.body_bytes = len(body)
        self.started_at = at
        self.ended_at: float | None = None
        self.state = "running"
        self.status = 0
        self.tokens = 0

    def as_json(self) -> dict[str, Any]:
        """The entry for /sim/requests; `body_base64` holds the first MiB."""
        return {
            "id": self.request_id,
            "path": self.path,
            "state": self.state,
            "status": self.status,
            "tokens": self.tokens,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "body_bytes": self.body_bytes,
            "body_base64": base64.b64encode(self.body).decode("ascii"),
        }


class RequestLog:
    """Counts of all requests, and the last of them.

    Args:
        len_max: entries kept.
    """

    __slots__ = ("_entries", "counts", "running")

    def __init__(self, len_max: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=len_max)
        self.counts: Counter[str] = Counter()
        self.running = 0

    def start(self, entry: Entry) -> None:
        """A request has arrived."""
        self.counts["started"] += 1
        self.running += 1
        self._entries.append(entry)

    def end(self, entry: Entry, state: str, ended_at: float) -> None:
        """A request is over: finished, cancelled, failed or rejected. Only the first call counts."""
        if entry.ended_at is None:
            entry.state = state
            entry.ended_at = ended_at
            self.counts[state] += 1
            self.running -= 1

    def as_json(self, last: int) -> dict[str, Any]:
        """The body of /sim/requests, with the `last` entries, oldest first."""
        states = ("started", "finished", "cancelled", "failed", "rejected")
        entries = list(self._entries)[-last:] if last > 0 else []
        return {
            **{state: self.counts[state] for state in states},
            "running": self.running,
            "requests": [entry.as_json() for entry in entries],
        }
