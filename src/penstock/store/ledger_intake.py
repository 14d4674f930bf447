"""Taking the journal into the ledger's tables: one pass over all files that are not finished."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.store.journal_reader import batches, is_finished, remove_empty, segment_names
from penstock.store.ledger_tables import finish, take, transaction

EMPTY_KEPT_S = 3600.0  # time enough for a writer to hold the file that it has just made


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one `ingest` did.

    Args:
        rows: entries that became rows, interrupted ones too.
        interrupted: those whose writer ended before they did.
        torn: lines of the journal that were passed over.
        unreadable: files of the journal that could not be read; they are tried again.
        vanished: names of files that were removed before they were known to be finished.
        removed: files that were read long ago and are needed no more.
        busy: another process is at it; nothing was done.
        rebuilt: where the damaged file was moved to; empty when there was none.
    """

    rows: int = 0
    interrupted: int = 0
    torn: int = 0
    unreadable: int = 0
    vanished: tuple[str, ...] = ()
    removed: int = 0
    busy: bool = False
    rebuilt: str = ""


class Intake:
    """One pass, by who is alone.

    Args:
        db: the ledger, with its tables.
        folder: `Home.journal`.
        keep_before: finished files that were last written before, in seconds since the epoch, are removed.
        now: seconds since the epoch.
    """

    def __init__(self, db: sqlite3.Connection, folder: Path, keep_before: float, now: float) -> None:
        self._db = db
        self._folder = folder
        self._keep_before = keep_before
        self._now = now
        self._tally: Counter[str] = Counter()
        known = db.execute("SELECT name, offset_bytes, finished FROM segments").fetchall()
        self._offsets = {name: offset for name, offset, _ in known}
        self._finished = {name for name, _, finished in known if finished}

    def run(self) -> IngestReport:
        """Takes in what is new, and tidies up.

        Raises:
            sqlite3.Error: the ledger is damaged, or can't be written.
            OSError: the folder can't be read.
        """
        ended = [name for name in self._unfinished() if self._has_ended(name)]
        # Looked at again: the files in which requests of the ended ones went on are there by now.
        names = self._unfinished()
        unreadable = {name for name in names if not self._read(name, finished=name in ended)}
        for name in ended:
            if name not in unreadable:
                self._finish(name)
        vanished = self._offsets.keys() - self._finished - set(names)
        for name in vanished:
            self._finish(name)
        self._remove_old()
        self._remove_empty(names)
        return IngestReport(
            rows=self._tally["rows"],
            interrupted=self._tally["interrupted"],
            torn=self._tally["torn"],
            unreadable=len(unreadable),
            vanished=tuple(sorted(vanished)),
            removed=self._tally["removed"],
        )

    def _unfinished(self) -> list[str]:
        return [name for name in segment_names(self._folder) if name not in self._finished]

    def _has_ended(self, name: str) -> bool:
        try:
            return is_finished(self._folder / name)
        except OSError:
            return False

    def _read(self, name: str, *, finished: bool) -> bool:
        """Takes in the new lines of a file, and returns whether it could be read."""
        try:
            for batch in batches(self._folder / name, self._offsets.get(name, 0), finished=finished):
                self._tally["rows"] += take(self._db, name, batch)
                self._tally["torn"] += batch.torn
        except OSError:
            return False
        return True

    def _finish(self, name: str) -> None:
        cut_off = finish(self._db, name)
        self._finished.add(name)
        self._tally["interrupted"] += cut_off
        self._tally["rows"] += cut_off

    def _remove_old(self) -> None:
        """Removes files that are old, and forgets those that are gone."""
        gone = [name for name in sorted(self._finished) if self._is_gone(self._folder / name)]
        if gone:
            with transaction(self._db):
                self._db.executemany("DELETE FROM segments WHERE name = ?", ((name,) for name in gone))

    def _is_gone(self, path: Path) -> bool:
        try:
            if path.stat().st_mtime < self._keep_before:
                path.unlink()
                self._tally["removed"] += 1
                return True
        except FileNotFoundError:
            return True
        except OSError:
            pass  # it stays, and is tried again
        return False

    def _remove_empty(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(OSError):
                remove_empty(self._folder / name, self._now - EMPTY_KEPT_S)
