"""What goes wrong, in the log: once when it begins, again while it lasts, but seldom, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

AGAIN_AFTER_S = 600.0
PLACES_MAX = 4096
"""Places of which it is remembered that something is wrong with them; there are no more replicas than that."""


class Notes:
    """Writes changes, not states.

    Args:
        warn: writes a line of what is wrong, with its members.
        tell: writes a line of what is well again.
        now_s: a clock.
    """

    def __init__(
        self,
        warn: Callable[[str, Mapping[str, str]], None],
        tell: Callable[[str, Mapping[str, str]], None],
        now_s: Callable[[], float],
    ) -> None:
        self._warn = warn
        self._tell = tell
        self._now_s = now_s
        self._wrong: dict[str, tuple[str, float]] = {}

    def wrong(self, place: str, reason: str, detail: str, hint: str = "") -> None:
        """Something is wrong.

        Args:
            place: where.
            reason: in one word: another one is written at once.
            detail: in a sentence.
        """
        before, at_s = self._wrong.get(place, ("", 0.0))
        now_s = self._now_s()
        if before == reason and now_s - at_s < AGAIN_AFTER_S:
            return
        if len(self._wrong) >= PLACES_MAX:
            self._wrong.pop(next(iter(self._wrong)))
        self._wrong[place] = reason, now_s
        said = {"source": place, "reason": reason, "detail": detail}
        self._warn("not_read", {**said, "hint": hint} if hint else said)

    def happened(self, event: str, place: str, reason: str, detail: str, hint: str) -> None:
        """Something has happened that is no state: it is written each time."""
        self._warn(event, {"source": place, "reason": reason, "detail": detail, "hint": hint})

    def well(self, place: str) -> None:
        """Nothing is wrong there."""
        if self._wrong.pop(place, None) is not None:
            self._tell("read_again", {"source": place})

    def forget(self, places: frozenset[str], prefix: str) -> None:
        """Drops what is known of places that begin so and are not these any more."""
        for place in [one for one in self._wrong if one.startswith(prefix) and one not in places]:
            del self._wrong[place]
