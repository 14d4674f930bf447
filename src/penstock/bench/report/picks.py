"""The requests that a report draws one by one: all of a short run, stretches of a long one, in bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from penstock.bench.analysis.measures import end_s, tokens
from penstock.bench.sample import Cause, Sample

# Some 4 MB; a page with more marks than this is slow to open.
PICKS_MAX = 8192
# Neighbours are kept together, so that a timeline of them shows what was under way at once.
STRETCH = 256
WARM_UP_STAGE = -1


class Pick(msgspec.Struct, frozen=True, gc=False):
    """One request: when its parts began, seconds from the start of the load; None was never reached."""

    index: int
    kind: str
    stage: int
    scheduled_s: float
    sent_s: float | None
    first_s: float | None
    last_s: float | None
    ended_s: float
    cause: Cause
    tokens: int

    @property
    def good(self) -> bool:
        """Whether it has a whole answer."""
        return self.cause is Cause.NONE


class Picks:
    """Keeps requests while they pass, and the fewer stretches of neighbours the more there are.

    Args:
        most: how many are kept at once.
        stretch: how many neighbours stay together.
    """

    def __init__(self, *, most: int = PICKS_MAX, stretch: int = STRETCH) -> None:
        self._most = most
        self._stretch = stretch
        self._every = 1
        self._kept: list[Pick] = []

    def passing(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples, each looked at."""
        for sample in samples:
            self.add(sample)
            yield sample

    def add(self, sample: Sample) -> None:
        """Keeps it, or does not."""
        if not self._wanted(sample.index):
            return
        self._kept.append(_pick(sample))
        while len(self._kept) > self._most:
            self._every *= 2
            self._kept = [pick for pick in self._kept if self._wanted(pick.index)]
            if self._every > self._most * self._stretch:
                self._kept = self._kept[: self._most]

    def all(self) -> list[Pick]:
        """What was kept, by scheduled time."""
        return sorted(self._kept, key=lambda pick: (pick.scheduled_s, pick.index))

    def _wanted(self, index: int) -> bool:
        return index // self._stretch % self._every == 0


def _pick(sample: Sample) -> Pick:
    times = (sample.ended_s, sample.done_s, sample.last_token_s, sample.sent_s)
    ended = max((time for time in times if time is not None), default=sample.scheduled_s)
    return Pick(
        index=sample.index,
        kind=sample.kind,
        stage=sample.stage,
        scheduled_s=sample.scheduled_s,
        sent_s=sample.sent_s,
        first_s=sample.first_token_s,
        last_s=end_s(sample),
        ended_s=ended,
        cause=sample.cause,
        tokens=tokens(sample) or 0,
    )
