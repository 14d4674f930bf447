"""The tables of the usage ledger, and how a batch of journal lines becomes rows: in one transaction with its offset.

`requests` has a row for each entry of the journal, `daily` their sums, `running` those without an end yet, and
`segments` how far each file of the journal was read. A day is the UTC day in which a request ended; one that was
cut off without an end counts where it began.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import lru_cache
from typing import NamedTuple

import msgspec

from penstock.core.record import Outcome
from penstock.policy.budget import DAY_S
from penstock.store.journal_line import Begin, End
from penstock.store.journal_reader import Batch

SCHEMA_VERSION = 1
NAMES_AT_ONCE = 500  # SQLite before 3.32 takes 999 parameters

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
        replayed INTEGER NOT NULL
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


class _Row(NamedTuple):
    """A row of `requests`, in the order of its columns."""

    entry_id: str
    request_id: str
    tenant: str
    key_id: str
    model: str
    route: str
    replica: str
    day: str
    started_at: float
    ended_at: float | None
    status: int
    outcome: str
    reserved_tokens: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usage_source: str = "none"
    cost_nano_usd: int = 0
    prompt_usd_per_million: float = 0.0
    completion_usd_per_million: float = 0.0
    continuations: int = 0
    replayed: bool = False


_INSERT = (
    f"INSERT INTO requests ({', '.join(_Row._fields)}) "  # noqa: S608 - names of ours and question marks
    f"VALUES ({', '.join('?' * len(_Row._fields))})"
)
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


def take(db: sqlite3.Connection, segment: str, batch: Batch) -> int:
    """Takes a batch in, and returns how many rows it made; lines that were taken before make none."""
    ends: dict[str, End] = {}
    begins: dict[str, Begin] = {}
    for line in batch.lines:
        if isinstance(line, End):
            ends.setdefault(line.entry, line)
        else:
            begins.setdefault(line.entry, line)
    with transaction(db):
        known = _known(db, [*ends, *(entry for entry in begins if entry not in ends)])
        late = [entry for entry, was_cut_off in known.items() if was_cut_off and entry in ends]
        _take_back(db, late)
        fresh = [end for entry, end in ends.items() if entry not in known or known[entry]]
        _insert(db, fresh)
        db.executemany("DELETE FROM running WHERE entry_id = ?", ((entry,) for entry in ends))
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
        _insert(db, cut_off)
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


def _insert(db: sqlite3.Connection, lines: Iterable[Begin]) -> None:
    rows = [_row(line) for line in lines]
    db.executemany(_INSERT, rows)
    sums: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        total = sums.setdefault((row.day, row.tenant, row.key_id, row.model), [0, 0, 0, 0, 0])
        total[0] += 1
        total[1] += row.outcome == Outcome.INTERRUPTED.value
        total[2] += row.prompt_tokens or 0
        total[3] += row.completion_tokens or 0
        total[4] += row.cost_nano_usd
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


def _row(line: Begin) -> _Row:
    who = (line.entry, line.request_id, line.tenant, line.key_id, line.model, line.route)
    if not isinstance(line, End):
        day = _day(int(line.started_at // DAY_S))
        return _Row(*who, "", day, line.started_at, None, 0, Outcome.INTERRUPTED.value, line.reserved_tokens)
    return _Row(
        *who,
        replica=line.replica,
        day=_day(int(line.ended_at // DAY_S)),
        started_at=line.started_at,
        ended_at=line.ended_at,
        status=line.status,
        outcome=line.outcome,
        reserved_tokens=line.reserved_tokens,
        prompt_tokens=line.prompt_tokens,
        completion_tokens=line.completion_tokens,
        usage_source=line.usage_source,
        cost_nano_usd=line.cost_nano_usd,
        prompt_usd_per_million=line.prompt_usd_per_million,
        completion_usd_per_million=line.completion_usd_per_million,
        continuations=line.continuations,
        replayed=line.replayed,
    )


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    """The date of a day since the epoch."""
    return date.fromordinal(_EPOCH_DAY + number).isoformat()


def _parts(entries: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(entries), NAMES_AT_ONCE):
        yield entries[start : start + NAMES_AT_ONCE]
