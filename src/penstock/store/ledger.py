"""The usage ledger: SQLite, made from the journal, with one row for each entry whatever is killed when.

Nothing is in it that the journal did not say; a file that is damaged is moved aside and made again. One process at
a time takes lines in, by `flock`; reading needs no lock. The queries are plain SQL over sums that can be added.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from penstock.core.errors import PenstockError
from penstock.store.journal_line import NANO_USD
from penstock.store.journal_reader import segment_names
from penstock.store.ledger_file import LedgerFile, is_damage, unusable
from penstock.store.ledger_intake import IngestReport, Intake
from penstock.store.outbox import Outbox

DIMENSIONS = {"tenant": "tenant", "key": "key_id", "model": "model", "day": "day"}
"""What totals can be made by, and the column of each."""

REBUILD_WAIT_S = 600.0

_SUMS = (
    "sum(requests)",
    "sum(interrupted)",
    "sum(prompt_tokens)",
    "sum(completion_tokens)",
    "sum(cost_nano_usd)",
)


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over a group of requests.

    Args:
        group: the values of what it was made by, in that order.
        interrupted: those of `requests` that ended amid an answer.
        cost_nano_usd: in 10⁻⁹ US dollars.
    """

    group: tuple[str, ...]
    requests: int = 0
    interrupted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano_usd: int = 0

    @property
    def cost_usd(self) -> float:
        """In US dollars."""
        return self.cost_nano_usd / NANO_USD


class Spent(NamedTuple):
    """US dollars of this UTC day and month."""

    day_usd: float
    month_usd: float


@dataclass(frozen=True, slots=True)
class Spend:
    """What each tenant, and each key by its id, has spent."""

    tenants: Mapping[str, Spent]
    keys: Mapping[str, Spent]


class Ledger:
    """The ledger in one file, which is open during calls alone; for one thread at a time.

    Args:
        path: `Home.ledger`.
        journal_folder: `Home.journal`.
        now: seconds since the epoch.
        keep_s: how long files of the journal are kept once they are read; None for ever.
        outbox: rows are to be sent elsewhere as well; None leaves that as it is.
        on_problem: told of a damaged file that was replaced, and of journal files that vanished.
    """

    def __init__(
        self,
        path: Path,
        journal_folder: Path,
        now: Callable[[], float],
        *,
        keep_s: float | None = None,
        outbox: bool | None = None,
        on_problem: Callable[[PenstockError], None] = lambda _: None,
    ) -> None:
        self._file = LedgerFile(path, now)
        self._journal = journal_folder
        self._now = now
        self._keep_s = keep_s
        self._outbox = outbox
        self._on_problem = on_problem

    def ingest(self, *, wait_s: float = 0.0) -> IngestReport:
        """Takes in what is new in the journal.

        Args:
            wait_s: how long to wait while another process does it.

        Raises:
            PenstockError: the ledger can't be written, or is of a newer Penstock; or the journal can't be read.
        """
        with self._file.alone(wait_s) as alone:
            if not alone:
                return IngestReport(busy=True)
            with self._explained():
                try:
                    return self._ingest()
                except sqlite3.Error as error:
                    if not is_damage(error):
                        raise
                    return self._rebuild(error)

    def totals(
        self,
        by: Sequence[str] = ("tenant",),
        *,
        since: date | None = None,
        until: date | None = None,
        where: Mapping[str, Sequence[str]] | None = None,
    ) -> list[Total]:
        """Sums of what was taken in, ordered by their groups.

        Args:
            by: names of `DIMENSIONS`; none for one sum over all.
            since: the first day, UTC.
            until: the last day, UTC.
            where: the values that count, by names of `DIMENSIONS`.

        Raises:
            PenstockError: the ledger can't be read, or is of a newer Penstock.
        """
        columns = ", ".join(DIMENSIONS[name] for name in by)
        tests, values = _tests(since, until, where or {})
        rows = self._query(
            f"SELECT {', '.join(filter(None, (columns, *_SUMS)))} FROM daily"  # noqa: S608 - names of ours
            + (f" WHERE {' AND '.join(tests)}" if tests else "")
            + (f" GROUP BY {columns} ORDER BY {columns}" if columns else ""),
            values,
        )
        return [Total(row[: len(by)], *row[len(by) :]) for row in rows if row[-1] is not None]

    def names(self, dimension: str) -> list[str]:
        """The values of a dimension that occur, in order.

        Raises:
            PenstockError: as `totals`.
        """
        return [total.group[0] for total in self.totals((dimension,))]

    def spend(self) -> Spend:
        """What was spent in this UTC day and month, of what was taken in.

        Raises:
            PenstockError: as `totals`.
        """
        today = datetime.fromtimestamp(self._now(), UTC).date()
        return Spend(self._spent("tenant", today), self._spent("key", today))

    def torn_lines(self) -> int:
        """Lines that were passed over in the files of the journal that are still there.

        Raises:
            PenstockError: as `totals`.
        """
        return sum(torn for (torn,) in self._query("SELECT torn FROM segments"))

    def _spent(self, dimension: str, today: date) -> dict[str, Spent]:
        of_month = self.totals((dimension,), since=today.replace(day=1), until=today)
        of_day = {total.group: total for total in self.totals((dimension,), since=today, until=today)}
        return {
            month.group[0]: Spent(of_day.get(month.group, Total(())).cost_usd, month.cost_usd)
            for month in of_month
        }

    def _query(self, query: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        with self._explained():
            try:
                return self._file.rows(query, values)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                with self._file.alone(REBUILD_WAIT_S) as alone:
                    if not alone:
                        raise unusable(self._file.path, "it is damaged, and being made again") from error
                    self._rebuild(error)
            return self._file.rows(query, values)

    def _rebuild(self, error: sqlite3.Error) -> IngestReport:
        """Makes a damaged file again, unless another process has."""
        aside = self._file.set_aside()
        report = self._ingest()
        if aside is None:
            return report
        oldest = next(iter(segment_names(self._journal)), "")
        reach = f"which goes back to {oldest.partition('-')[0]}" if oldest else "which is empty"
        self._on_problem(
            PenstockError(
                f"{self._file.path} was damaged ({error}): it was made again from the journal, {reach}",
                code="ledger_damaged",
                hint=f"what was there is in {aside}",
            )
        )
        return replace(report, rebuilt=str(aside))

    def _ingest(self) -> IngestReport:
        now = self._now()
        keep_before = -math.inf if self._keep_s is None else now - self._keep_s
        with self._file.writing() as db:
            report = Intake(db, self._journal, keep_before, now).run()
            if (
                self._outbox
            ):  # after the intake: rows of a ledger that is made again may have been sent before
                Outbox(db).follow()
            elif self._outbox is False:
                Outbox(db).follow_no_longer()
        if report.vanished:
            self._on_problem(
                PenstockError(
                    f"files of {self._journal} are gone before they were read: {', '.join(report.vanished)}",
                    code="journal_vanished",
                    hint="what was in them and not yet in the ledger is lost; leave the folder to Penstock",
                )
            )
        return report

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise unusable(self._file.path, str(error)) from error


def _tests(
    since: date | None, until: date | None, where: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Conditions, and the values of their question marks."""
    tests = [f"{DIMENSIONS[name]} IN ({', '.join('?' * len(values))})" for name, values in where.items()]
    given = [value for values in where.values() for value in values]
    for test, day in (("day >= ?", since), ("day <= ?", until)):
        if day is not None:
            tests.append(test)
            given.append(day.isoformat())
    return tests, given
