"""The file of the usage ledger: opened where it is sound and known, moved aside where it is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penstock.core.errors import PenstockError
from penstock.store.home import FILE_MODE
from penstock.store.ledger_tables import SCHEMA_VERSION, create, upgrade

LOCK_TRY_EVERY_S = 0.02
BUSY_S = 5.0  # SQLite's own locks are held for milliseconds
DAMAGED_KEPT = 3  # a disk that damages one after the other is not filled with them

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DAMAGED = ".corrupt-"
_COMPANIONS = ("-wal", "-shm")  # https://sqlite.org/wal.html


class LedgerFile:
    """One SQLite file, which another process may replace at any time.

    Connections are not kept: one that outlives the moving of its file can damage what comes in its place
    (https://sqlite.org/howtocorrupt.html, "Unlinking or renaming a database file while in use"). Those that write
    are open only while they are `alone`, and the others may not write.

    Args:
        path: `Home.ledger`.
        now: seconds since the epoch, for the names of damaged files.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self._now = now
        self._opened: tuple[int, int] | None = None  # which file was there last

    @contextmanager
    def alone(self, wait_s: float) -> Iterator[bool]:
        """Whether nobody else takes lines in until the end of the block.

        Raises:
            PenstockError: the lock can't be made.
        """
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT, FILE_MODE)
        except OSError as error:
            raise unusable(self.path, str(error.strerror).lower()) from error
        try:
            yield _locked(fd, wait_s)
        finally:
            os.close(fd)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that may write, for who is `alone`; the file is made where there is none.

        Raises:
            PenstockError: it is of a newer Penstock.
            sqlite3.Error: it is damaged, or can't be written.
            OSError: it can't be made.
        """
        if self._stamp() is None:
            for suffix in _COMPANIONS:
                self._companion(suffix).unlink(missing_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, FILE_MODE))
        with self._connected("rw") as db:
            version = self._version(db)
            if not version:
                db.execute("PRAGMA journal_mode = WAL")
                create(db)
            elif version < SCHEMA_VERSION:
                upgrade(db)
            db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is in the journal
            yield db

    def rows(self, query: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        """What a query finds; nothing where nobody has made the file yet.

        Raises:
            PenstockError: it is of a newer Penstock.
            sqlite3.Error: it is damaged, or can't be read.
        """
        if self._stamp() is None:
            return []
        with self._connected("ro") as db:
            return db.execute(query, values).fetchall() if self._version(db) else []

    def set_aside(self) -> Path | None:
        """Moves the file away, for who is `alone`; None where another process has replaced it already.

        Raises:
            PenstockError: it can't be moved.
        """
        there = self._stamp()
        if there is None or there != self._opened:
            return None
        stamp = datetime.fromtimestamp(self._now(), UTC).strftime("%Y%m%dT%H%M%SZ")
        target = self.path.with_name(f"{self.path.name}{_DAMAGED}{stamp}")
        try:
            for older in self._damaged()[: -(DAMAGED_KEPT - 1)]:
                older.unlink()
                older.with_name(f"{older.name}-wal").unlink(missing_ok=True)
            self._companion("-shm").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._companion("-wal").replace(target.with_name(f"{target.name}-wal"))
            self.path.replace(target)
        except OSError as error:
            raise unusable(self.path, f"damaged, and can't be moved: {error.strerror}") from error
        return target

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        self._opened = self._stamp()
        uri = f"file:{quote(str(self.path.absolute()))}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            yield db
        finally:
            with suppress(sqlite3.Error):
                db.close()

    def _version(self, db: sqlite3.Connection) -> int:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise PenstockError(
                f"{self.path} has version {version}, this Penstock knows {SCHEMA_VERSION}",
                code="ledger_version",
                hint="use the Penstock that wrote it, or move the file away: it is made again from the journal",
            )
        return int(version)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def _companion(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}{suffix}")

    def _damaged(self) -> list[Path]:
        found = self.path.parent.glob(f"{self.path.name}{_DAMAGED}*")
        return sorted(path for path in found if not path.name.endswith("-wal"))


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is no sound database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def unusable(path: Path, reason: str) -> PenstockError:
    """Why the ledger can't be used."""
    return PenstockError(
        f"the usage ledger {path} can't be used: {reason}",
        code="ledger_unusable",
        hint="nothing is lost: what is used is in the journal, from which the ledger is made",
    )


def _locked(fd: int, wait_s: float) -> bool:
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(LOCK_TRY_EVERY_S)
        else:
            return True
