"""Answers of one machine: `LocalAnswers` keeps them in an SQLite file, which several processes share.

Each process holds a lock for as long as it lives, so that the claims of one that was killed are free at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

from penstock.store.answers import (
    ANSWER_BYTES_MAX,
    BYTES_MAX,
    ENTRIES_MAX,
    LEASE_S,
    TTL_S,
    VERSION,
    Answer,
    AnswersError,
    Claim,
    Claimed,
    Known,
    Mismatch,
    Running,
    Stored,
    packed,
    unpacked,
)
from penstock.store.home import FILE_MODE, FOLDER_MODE

BUSY_S = 0.5  # the longest wait for another process's write, in a thread
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  tenant TEXT NOT NULL, key BLOB NOT NULL, fingerprint BLOB NOT NULL,
  owner TEXT,               -- whose request runs; NULL once it has ended
  until_s REAL NOT NULL,    -- end of the lease, or of the answer's life; seconds since the epoch
  ended_s REAL,
  packed BLOB,              -- NULL while it runs, and where the answer was too large
  bytes INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, key));
CREATE INDEX IF NOT EXISTS by_age ON answers (ended_s) WHERE owner IS NULL;
CREATE INDEX IF NOT EXISTS by_lease ON answers (until_s) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM totals);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON answers BEGIN
  UPDATE totals SET entries = entries + 1, bytes = bytes + new.bytes; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON answers BEGIN
  UPDATE totals SET entries = entries - 1, bytes = bytes - old.bytes; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE OF bytes ON answers BEGIN
  UPDATE totals SET bytes = bytes + new.bytes - old.bytes; END;
"""

Result = TypeVar("Result")


class LocalAnswers:
    """Answers in an SQLite file, shared by the processes of one machine; all calls run in one thread.

    A file that is damaged is moved aside, `<name>.damaged`, and begun anew.

    Args:
        path: `Home.answers`; beside it is a folder, `<name>.owners`.
        now: seconds since the epoch.
        ttl_s: how long an answer is kept.
        entries_max: answers and claims; beyond it the oldest answers go.
        bytes_max: of all answers as they are stored; beyond it the oldest go.
        lease_s: after which a claim that was not renewed is free.
        on_problem: told when a file was moved aside.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], float],
        *,
        ttl_s: float = TTL_S,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        lease_s: float = LEASE_S,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path = path
        self._now = now
        self._ttl_s = ttl_s
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._lease_s = lease_s
        self._on_problem = on_problem
        self._life = _Life(path.with_name(f"{path.name}.owners"))
        self._numbers = count()
        self._db: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] | None = None
        self._problems: list[str] = []
        self._thread = ThreadPoolExecutor(1, "answers")

    async def claim(self, tenant: str, key: bytes, fingerprint: bytes) -> Claimed | Known:
        """Claims the key, or tells what is known of it."""
        claim = Claim(tenant, key, fingerprint, "")
        known = await self._do(self._find, claim)
        return await self._do(self._claim, claim) if known is None else known

    async def find(self, tenant: str, key: bytes, fingerprint: bytes) -> Known | None:
        """What is known of the key, without claiming it.

        Raises:
            AnswersError: the file can't be read.
        """
        return await self._do(self._find, Claim(tenant, key, fingerprint, ""))

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Prolongs the leases of claims; one that was lost stays so."""
        await self._do(self._renew, claims)

    async def complete(self, claim: Claim, answer: Answer | None) -> None:
        """Keeps the answer in place of the claim, None for one that was too large; nothing where that was lost."""
        await self._do(self._complete, claim, answer)

    async def release(self, claim: Claim) -> None:
        """Frees the key; nothing where the claim was lost."""
        await self._do(self._release, claim)

    async def close(self) -> None:
        """Closes the file, and frees what this process had claimed."""
        with suppress(AnswersError):
            await self._do(self._close)
        self._thread.shutdown()

    async def _do(self, work: Callable[..., Result], *args: object) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._mended, work, *args)
        except (sqlite3.Error, OSError) as error:
            raise AnswersError(f"{self._path}: {error}") from error
        finally:
            while self._problems:
                self._on_problem(self._problems.pop(0))

    # -- in the thread --------------------------------------------------------------------------------

    def _mended(self, work: Callable[..., Result], *args: object) -> Result:
        """`work`, once more where the file was found damaged, and is a new one now."""
        try:
            return work(*args)
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            self._move_aside(error)
            return work(*args)

    def _find(self, claim: Claim) -> Known | None:
        row = (
            self._open()
            .execute(
                "SELECT fingerprint, owner, until_s, packed FROM answers WHERE tenant = ? AND key = ?",
                (claim.tenant, claim.key),
            )
            .fetchone()
        )
        if row is None:
            return None
        fingerprint, owner, until_s, data = row
        if until_s <= self._now() or (owner is not None and not self._life.has(owner.partition(":")[0])):
            return None
        if fingerprint != claim.fingerprint:
            return Mismatch()
        if owner is not None:
            return Running()
        if data is None:
            return Stored(None)
        answer = unpacked(data)
        return None if answer is None else Stored(answer)

    def _claim(self, claim: Claim) -> Claimed | Known:
        owner = f"{self._life.name()}:{next(self._numbers)}"
        with self._transaction() as db:
            known = self._find(claim)  # another process may have been faster
            if known is not None:
                return known
            # not REPLACE: that deletes without the trigger
            db.execute("DELETE FROM answers WHERE tenant = ? AND key = ?", (claim.tenant, claim.key))
            db.execute(
                "INSERT INTO answers (tenant, key, fingerprint, owner, until_s) VALUES (?, ?, ?, ?, ?)",
                (claim.tenant, claim.key, claim.fingerprint, owner, self._now() + self._lease_s),
            )
        return Claimed(Claim(claim.tenant, claim.key, claim.fingerprint, owner))

    def _renew(self, claims: Sequence[Claim]) -> None:
        until_s = self._now() + self._lease_s
        with self._transaction() as db:
            db.executemany(
                "UPDATE answers SET until_s = ? WHERE tenant = ? AND key = ? AND owner = ?",
                [(until_s, claim.tenant, claim.key, claim.owner) for claim in claims],
            )

    def _complete(self, claim: Claim, answer: Answer | None) -> None:
        data = None if answer is None else packed(answer)
        if data is not None and len(data) > self._bytes_max:
            data = None
        now_s = self._now()
        with self._transaction() as db:
            db.execute(
                "UPDATE answers SET owner = NULL, until_s = ?, ended_s = ?, packed = ?, bytes = ?"
                " WHERE tenant = ? AND key = ? AND owner = ?",
                (
                    now_s + self._ttl_s,
                    now_s,
                    data,
                    len(data or b""),
                    claim.tenant,
                    claim.key,
                    claim.owner,
                ),
            )
            self._trim(db, now_s)

    def _trim(self, db: sqlite3.Connection, now_s: float) -> None:
        """Takes out what has expired, and the oldest answers until the rest fits."""
        db.execute("DELETE FROM answers WHERE owner IS NOT NULL AND until_s <= ?", (now_s,))
        db.execute("DELETE FROM answers WHERE owner IS NULL AND ended_s <= ?", (now_s - self._ttl_s,))
        while True:
            entries, size = db.execute("SELECT entries, bytes FROM totals").fetchone()
            if entries <= self._entries_max and size <= self._bytes_max:
                return
            gone = db.execute(
                "DELETE FROM answers WHERE rowid ="
                " (SELECT rowid FROM answers WHERE owner IS NULL ORDER BY ended_s, rowid LIMIT 1)"
            )
            if not gone.rowcount:  # the rest runs
                return

    def _release(self, claim: Claim) -> None:
        self._open().execute(
            "DELETE FROM answers WHERE tenant = ? AND key = ? AND owner = ?",
            (claim.tenant, claim.key, claim.owner),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._open()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        """The file; opened anew where another process has put another one in its place."""
        if self._db is not None and self._file_id == _file_id(self._path):
            return self._db
        self._shut()
        with self._life.locked():
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(db)
            except BaseException:
                db.close()
                raise
            self._file_id = _file_id(self._path)
        self._db = db
        return db

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        """Makes room for a new file, unless another process has done so already."""
        mine = self._file_id
        self._shut()
        with self._life.locked():
            if mine is not None and mine != _file_id(self._path):
                return
            aside = self._path.with_name(f"{self._path.name}.damaged")
            with suppress(FileNotFoundError):
                self._path.replace(aside)
            for suffix in ("-wal", "-shm"):  # else the new file would take in what is there
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._problems.append(f"{self._path} was damaged ({error}): moved to {aside.name}, and begun anew")

    def _shut(self) -> None:
        db, self._db, self._file_id = self._db, None, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _close(self) -> None:
        self._shut()
        self._life.end()


class _Life:
    """Shows other processes that this one lives, by a lock on a file of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._fd = -1

    def name(self) -> str:
        """The name of this process's file; made, and those of the dead taken away, when it is first asked for."""
        while not self._name:
            self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            for path in self._folder.iterdir():
                self.has(path.name)
            name = secrets.token_hex(8)
            fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            if _locked_now(fd, fcntl.LOCK_EX) and os.fstat(fd).st_nlink:
                self._name, self._fd = name, fd
            else:  # another process took it for one of the dead before it was locked
                os.close(fd)
        return self._name

    def has(self, name: str) -> bool:
        """Whether the process of this name lives."""
        if name == self._name:
            return True
        path = self._folder / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not _locked_now(fd, fcntl.LOCK_SH):
                return True
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time."""
        self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        fd = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def end(self) -> None:
        """Lets go of it."""
        if self._name:
            (self._folder / self._name).unlink(missing_ok=True)
            os.close(self._fd)
            self._name, self._fd = "", -1


def _prepare(db: sqlite3.Connection) -> None:
    """Makes the tables.

    Raises:
        sqlite3.DatabaseError: the file is damaged, or of another version.
    """
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {2 * ANSWER_BYTES_MAX}")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version:
        error = sqlite3.DatabaseError(f"version {version} is not {VERSION}")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error
    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _locked_now(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
