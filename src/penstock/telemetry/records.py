"""The records of requests that have ended, handed on some at a time to all who make something of them.

A busy gateway so makes one system call for many lines of the log, and does for many records one after the other
what would cost twice as much for each at its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.core.record import RequestRecord

# How late a record may be told.
FLUSH_AFTER_S = 0.05
# So many are told in less than half a millisecond.
FLUSH_AT = 64


class Records:
    """Collects records, each of which must not change any more.

    Args:
        takers: are given the records in their order.
        later: calls a function after a number of seconds.
        on_bug: takes what a taker raises; the others get the records all the same.
    """

    def __init__(
        self,
        takers: Sequence[Callable[[Sequence[RequestRecord]], None]],
        later: Callable[[float, Callable[[], None]], object],
        on_bug: Callable[[str, BaseException], None],
    ) -> None:
        self._takers = takers
        self._later = later
        self._on_bug = on_bug
        self._records: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        """One more."""
        records = self._records
        records.append(record)
        if len(records) == 1:
            self._later(FLUSH_AFTER_S, self.flush)
        elif len(records) >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Hands on what is collected."""
        if self._records:
            records, self._records = self._records, []
            for take in self._takers:
                try:
                    take(records)
                except Exception as error:
                    self._on_bug("records", error)
