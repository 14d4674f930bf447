"""The tables of the usage ledger, and how a batch of journal lines becomes rows: in one transaction with its offset.

`requests` has a row for each entry of the journal, `daily` their sums, `running` those without an end yet, and
`segments` how far each file of the journal was read. A day is the UTC day in which a request ended; one that was
cut off without an end counts where it began.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import lru_cache

import msgspec

from penstock.core.record import Outcome
from penstock.policy.budget import DAY_S
from penstock.store.journal_line import Begin, End
from penstock.store.journal_reader import Batch

SCHEMA_VERSION = 2
NAMES_AT_ONCE = 500  # SQLite before 3.32 takes 999 parameters

_INTERRUPTED = Outcome.INTERRUPTED.value
_EPOCH_DAY = date(1970, 1, 1).toordinal()

_SCHEMA = (
    """CREATE TABLE requests (
        entry_id TEXT PRIMARY KEY NOT NULL,
        request_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        model TEXT NOT NULL,
        route TEXT NOT NULL,
        replica TEXT NOT NULL,
        day TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL,
        status INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        reserved_tokens INTEGER NOT NULL,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        usage_source TEXT NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        prompt_usd_per_million REAL NOT NULL,
        completion_usd_per_million REAL NOT NULL,
        continuations INTEGER NOT NULL,
        replayed INTEGER NOT NULL,
        stream INTEGER NOT NULL DEFAULT 0,
        priority TEXT NOT NULL DEFAULT '',
        fault TEXT NOT NULL DEFAULT '',
        error_code TEXT NOT NULL DEFAULT '',
        attempts INTEGER NOT NULL DEFAULT 0,
        queue_s REAL,
        ttft_s REAL,
        tpot_s REAL
    ) WITHOUT ROWID""",
    """CREATE TABLE daily (
        day TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        interrupted INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        PRIMARY KEY (day, tenant, key_id, model)
    ) WITHOUT ROWID""",
    """CREATE TABLE running (
        entry_id TEXT PRIMARY KEY NOT NULL,
        segment TEXT NOT NULL,
        line BLOB NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX running_by_segment ON running (segment)",
    """CREATE TABLE segments (
        name TEXT PRIMARY KEY NOT NULL,
        offset_bytes INTEGER NOT NULL,
        torn INTEGER NOT NULL,
        finished INTEGER NOT NULL
    ) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# What makes the tables of version 1 those of version 2.
_UPGRADE = (
    "ALTER TABLE requests ADD COLUMN stream INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE requests ADD COLUMN priority TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE requests ADD COLUMN fault TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE requests ADD COLUMN error_code TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE requests ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE requests ADD COLUMN queue_s REAL",
    "ALTER TABLE requests ADD COLUMN ttft_s REAL",
    "ALTER TABLE requests ADD COLUMN tpot_s REAL",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# The fields of a line, in their order, then the day; many rows at once, since each statement has a cost of its own.
_COLUMNS = ("entry_id", *(name for name in End.__struct_fields__ if name != "entry"), "day")
_ROWS_AT_ONCE = NAMES_AT_ONCE // len(_COLUMNS)
_INSERT = f"INSERT INTO requests ({', '.join(_COLUMNS)}) VALUES "  # noqa: S608 - names of ours
_ROW = f"({', '.join('?' * len(_COLUMNS))})"
_ADD = """INSERT INTO daily VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (day, tenant, key_id, model) DO UPDATE SET
        requests = requests + excluded.requests,
        interrupted = interrupted + excluded.interrupted,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd"""
_PROGRESS = """INSERT INTO segments VALUES (?, ?, ?, 0)
    ON CONFLICT (name) DO UPDATE SET offset_bytes = excluded.offset_bytes, torn = torn + excluded.torn"""


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # the first error tells more
            db.execute("ROLLBACK")
        raise


def create(db: sqlite3.Connection) -> None:
    """Makes the tables in an empty database."""
    with transaction(db):
        for statement in _SCHEMA:
            db.execute(statement)


def upgrade(db: sqlite3.Connection) -> None:
    """Makes the tables of an earlier Penstock those of this one; what it did not know is empty."""
    with transaction(db):
        for statement in _UPGRADE:
            db.execute(statement)


def take(db: sqlite3.Connection, segment: str, batch: Batch) -> int:
    """Takes a batch in, and returns how many rows it made; lines that were taken before make none."""
    ends: dict[str, End] = {}
    begins: dict[str, Begin] = {}
    for line in batch.lines:
        if isinstance(line, End):
            ends.setdefault(line.entry, line)
        else:
            begins.setdefault(line.entry, line)
    # What begins and ends in one batch was not seen before, unless a file was copied.
    try:
        return _take(db, segment, batch, begins, ends, doubted=ends.keys() ^ begins.keys())
    except sqlite3.IntegrityError:
        return _take(db, segment, batch, begins, ends, doubted=ends.keys() | begins.keys())


def _take(
    db: sqlite3.Connection,
    segment: str,
    batch: Batch,
    begins: dict[str, Begin],
    ends: dict[str, End],
    doubted: Collection[str],
) -> int:
    """Takes a batch in.

    Args:
        doubted: entries that may have a row, or be running, already.

    Raises:
        sqlite3.IntegrityError: one that is not doubted has a row.
    """
    with transaction(db):
        known = _known(db, list(doubted))
        late = [entry for entry, was_cut_off in known.items() if was_cut_off and entry in ends]
        _take_back(db, late)
        fresh = [end for entry, end in ends.items() if entry not in known or known[entry]]
        _insert(db, fresh)
        _run_no_longer(db, [entry for entry in doubted if entry in ends])
        db.executemany(
            "INSERT OR IGNORE INTO running VALUES (?, ?, ?)",
            (
                (entry, segment, msgspec.json.encode(begin))
                for entry, begin in begins.items()
                if entry not in ends and entry not in known
            ),
        )
        db.execute(_PROGRESS, (segment, batch.offset, batch.torn))
    return len(fresh) - len(late)


def finish(db: sqlite3.Connection, segment: str) -> int:
    """Marks a file as read to its last end, and counts what began in it without an end as interrupted."""
    with transaction(db):
        lines = db.execute("SELECT line FROM running WHERE segment = ?", (segment,)).fetchall()
        begins = [msgspec.json.decode(line, type=Begin) for (line,) in lines]
        known = _known(db, [begin.entry for begin in begins])
        cut_off = [begin for begin in begins if begin.entry not in known]
        _insert(db, [_cut_off(begin) for begin in cut_off])
        db.execute("DELETE FROM running WHERE segment = ?", (segment,))
        db.execute("UPDATE segments SET finished = 1 WHERE name = ?", (segment,))
    return len(cut_off)


def _known(db: sqlite3.Connection, entries: Sequence[str]) -> dict[str, bool]:
    """The entries that have a row, and whether that is one without an end."""
    known: dict[str, bool] = {}
    for part in _parts(entries):
        marks = ", ".join("?" * len(part))
        found = db.execute(
            f"SELECT entry_id, ended_at IS NULL FROM requests WHERE entry_id IN ({marks})",  # noqa: S608 - marks
            part,
        )
        known.update((entry, bool(cut_off)) for entry, cut_off in found)
    return known


def _run_no_longer(db: sqlite3.Connection, entries: Sequence[str]) -> None:
    for part in _parts(entries):
        db.execute(f"DELETE FROM running WHERE entry_id IN ({', '.join('?' * len(part))})", part)  # noqa: S608 - marks


def _insert(db: sqlite3.Connection, lines: Sequence[End]) -> None:
    days = [_day_of(line) for line in lines]
    for start in range(0, len(lines), _ROWS_AT_ONCE):
        rows = zip(lines[start : start + _ROWS_AT_ONCE], days[start:], strict=False)
        values = [value for line, day in rows for value in (*msgspec.structs.astuple(line), day)]
        db.execute(_INSERT + ", ".join([_ROW] * (len(values) // len(_COLUMNS))), values)
    sums: dict[tuple[str, ...], list[int]] = {}
    for line, day in zip(lines, days, strict=True):
        total = sums.setdefault((day, line.tenant, line.key_id, line.model), [0, 0, 0, 0, 0])
        total[0] += 1
        total[1] += line.outcome == _INTERRUPTED
        total[2] += line.prompt_tokens or 0
        total[3] += line.completion_tokens or 0
        total[4] += line.cost_nano_usd
    db.executemany(_ADD, ((*group, *total) for group, total in sums.items()))


def _take_back(db: sqlite3.Connection, entries: Sequence[str]) -> None:
    """Removes rows of requests that seemed cut off, because their files could not be read in time."""
    for entry in entries:
        db.execute(
            "UPDATE daily SET requests = requests - 1, interrupted = interrupted - 1 "
            "WHERE (day, tenant, key_id, model) = "
            "(SELECT day, tenant, key_id, model FROM requests WHERE entry_id = ?)",
            (entry,),
        )
        db.execute("DELETE FROM requests WHERE entry_id = ?", (entry,))
    if entries:
        db.execute("DELETE FROM daily WHERE requests = 0")


def _cut_off(begin: Begin) -> End:
    """What stands for an end that never came. SQLite has no NaN: it stores NULL."""
    return End(**msgspec.structs.asdict(begin), ended_at=math.nan, status=0, outcome=_INTERRUPTED)


def _day_of(line: End) -> str:
    known_s = line.started_at if math.isnan(line.ended_at) else line.ended_at
    return _day(int(known_s // DAY_S))


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    """The date of a day since the epoch."""
    return date.fromordinal(_EPOCH_DAY + number).isoformat()


def _parts(entries: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(entries), NAMES_AT_ONCE):
        yield entries[start : start + NAMES_AT_ONCE]
