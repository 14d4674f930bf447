"""Records are handed on together: soon, in their order, each once, to everybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.core.record import RequestRecord
from penstock.telemetry.records import FLUSH_AFTER_S, FLUSH_AT, Records


class Kept:
    """Two takers, and a timer that only the test rings."""

    def __init__(self) -> None:
        self.first: list[list[str]] = []
        self.second: list[list[str]] = []
        self.bugs: list[tuple[str, BaseException]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.records = Records(
            (self._into(self.first), self._into(self.second)),
            lambda after_s, call: self.timers.append((after_s, call)),
            lambda where, error: self.bugs.append((where, error)),
        )

    def add(self, *ids: str) -> None:
        for one in ids:
            self.records.add(RequestRecord(one, "POST", "/v1/completions", arrived_s=0.0, started_at=0.0))

    @staticmethod
    def _into(batches: list[list[str]]) -> Callable[[Sequence[RequestRecord]], None]:
        return lambda records: batches.append([record.request_id for record in records])


def test_records_are_told_together_to_everybody_when_their_time_has_come() -> None:
    kept = Kept()
    kept.add("a", "b")
    (after_s, ring) = kept.timers[0]
    ring()
    kept.add("c")

    assert after_s == FLUSH_AFTER_S
    assert kept.first == kept.second == [["a", "b"]]
    assert len(kept.timers) == 2


def test_many_records_do_not_wait_and_are_told_once() -> None:
    kept = Kept()
    names = [f"r{number}" for number in range(FLUSH_AT + 1)]
    kept.add(*names)
    for _, ring in kept.timers:
        ring()
    kept.records.flush()

    assert kept.first == [names[:-1], names[-1:]]
