"""Pushes what the exporter knows again and again, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from penstock.core.errors import PenstockError
from penstock.exporter.notes import Notes
from penstock.exporter.watch import Watch
from penstock.telemetry.families import Gathered

PLACE = "otlp"


class Endpoint(Protocol):
    """Where it is pushed to."""

    def send(self, families: list[Gathered]) -> None:
        """Pushes once; raises PenstockError where it is not taken."""


class Pushing:
    """From `start` to `stop`.

    Args:
        families: what is known now.
        every_s: seconds from one push to the next.
        now_s: a clock.
        notes: takes what goes wrong.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        families: Callable[[], list[Gathered]],
        every_s: float,
        now_s: Callable[[], float],
        notes: Notes,
    ) -> None:
        self._endpoint = endpoint
        self._families = families
        self._now_s = now_s
        self._notes = notes
        self._taken_s = now_s()
        self._watch = Watch(PLACE, self._push, every_s, now_s, self._on_bug)

    def start(self) -> None:
        """Begins to push."""
        self._watch.start()

    def stop(self) -> None:
        """Pushes no more; one that is under way is not waited for."""
        self._watch.stop(0.0)

    def age_s(self) -> float:
        """Seconds since a push was taken, or since the start."""
        return self._now_s() - self._taken_s

    def _push(self) -> None:
        try:
            self._endpoint.send(self._families())
        except PenstockError as error:
            self._notes.wrong(PLACE, "refused", error.message, error.hint)
            return
        self._notes.well(PLACE)
        self._taken_s = self._now_s()

    def _on_bug(self, source: str, error: Exception) -> None:
        self._notes.wrong(source, "bug", repr(error), "please report it")
