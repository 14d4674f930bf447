"""The rows of the ledger that are still to be sent elsewhere, in the order in which they came.

A trigger notes each row in the transaction that makes it, so that what is in the ledger and what is to be sent can't
disagree. Rows leave in batches: a batch is put together once and kept until it is known to have arrived, so that one
that is sent again can be recognised by its id. A row that is taken back after it was put into a batch follows with
the sign -1. What waits takes some 40 bytes a row; the rows themselves are the ledger's.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from penstock.store.ledger_tables import transaction

COLUMNS = (
    *("entry_id", "request_id", "tenant", "key_id", "model", "route", "replica", "started_at", "ended_at"),
    *("status", "outcome", "fault", "error_code", "stream", "priority", "attempts", "reserved_tokens"),
    *("prompt_tokens", "completion_tokens", "usage_source", "cost_nano_usd", "prompt_usd_per_million"),
    *("completion_usd_per_million", "continuations", "replayed", "queue_s", "ttft_s", "tpot_s"),
)
"""What is sent of a row."""

_TABLES = (
    """CREATE TABLE unsent (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        entry_id TEXT NOT NULL,
        taken_back TEXT  -- the row as JSON, where it was sent and is no more
    )""",
    "CREATE INDEX unsent_by_entry ON unsent (entry_id)",
    """CREATE TABLE outbox (
        ledger_id TEXT NOT NULL,
        last_batch INTEGER NOT NULL,
        old_until INTEGER NOT NULL,  -- numbers up to this one may have been sent by an earlier ledger
        body BLOB                    -- of the batch under way
    )""",
)
_ON_INSERT = """CREATE TRIGGER note_row AFTER INSERT ON requests BEGIN
    INSERT INTO unsent (entry_id) VALUES (new.entry_id);
END"""
_OLD = ", ".join(f"'{name}', old.{name}" for name in COLUMNS)
_ON_DELETE = f"""CREATE TRIGGER note_no_row AFTER DELETE ON requests BEGIN
    INSERT INTO unsent (entry_id, taken_back) SELECT old.entry_id, json_object({_OLD})
        WHERE NOT EXISTS (SELECT * FROM unsent WHERE entry_id = old.entry_id AND taken_back IS NULL);
    DELETE FROM unsent WHERE entry_id = old.entry_id AND taken_back IS NULL;
END"""  # noqa: S608 - names of ours
_NEXT = f"""SELECT u.number, u.taken_back, {", ".join(f"r.{name}" for name in COLUMNS)}
    FROM unsent u LEFT JOIN requests r ON r.entry_id = u.entry_id ORDER BY u.number LIMIT ?"""  # noqa: S608 - names of ours

COUNT = """SELECT (SELECT count(*) FROM unsent)
    + coalesce((SELECT json_array_length(CAST(body AS TEXT), '$.rows') FROM outbox), 0)"""
"""The query for how many rows wait."""


class Batch(msgspec.Struct, frozen=True):
    """Rows that are sent together.

    Args:
        id: of this batch alone, in all ledgers.
        old: its rows may have arrived before, from a ledger that was lost.
        rows: with a `sign`, -1 for one that is taken back.
    """

    id: str
    old: bool
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outbox:
    """What is to be sent of a ledger.

    Args:
        db: the ledger, by who may write to it.
    """

    db: sqlite3.Connection

    def follow(self) -> None:
        """Notes each row from now on, and all that are there; nothing where it does so already."""
        if self._exists():
            return
        with transaction(self.db):
            for statement in (*_TABLES, _ON_INSERT, _ON_DELETE):
                self.db.execute(statement)
            self.db.execute("INSERT INTO unsent (entry_id) SELECT entry_id FROM requests ORDER BY started_at")
            self.db.execute(
                "INSERT INTO outbox SELECT lower(hex(randomblob(8))), 0, coalesce(max(number), 0), NULL FROM unsent"
            )

    def follow_no_longer(self) -> None:
        """Notes no more rows, and forgets those that are noted."""
        if not self._exists():
            return
        with transaction(self.db):
            for thing in ("TRIGGER note_row", "TRIGGER note_no_row", "TABLE unsent", "TABLE outbox"):
                self.db.execute(f"DROP {thing}")

    def count(self) -> int:
        """Rows that wait, those of the batch under way included."""
        if not self._exists():
            return 0
        (rows,) = self.db.execute(COUNT).fetchone()
        return int(rows)

    def next_batch(self, rows_max: int) -> Batch | None:
        """The batch that is to be sent: the one given last, until it is `sent`; None where there is nothing to send."""
        if not self._exists():
            return None
        with transaction(self.db):
            ledger_id, last, old_until, body = self.db.execute("SELECT * FROM outbox").fetchone()
            if body is not None:
                return msgspec.json.decode(body, type=Batch)
            found = self.db.execute(_NEXT, (rows_max,)).fetchall()
            if not found:
                return None
            batch = Batch(f"{ledger_id}-{last + 1}", found[0][0] <= old_until, [_row(*one) for one in found])
            self.db.execute("DELETE FROM unsent WHERE number <= ?", (found[-1][0],))
            self.db.execute(
                "UPDATE outbox SET last_batch = last_batch + 1, body = ?", (msgspec.json.encode(batch),)
            )
        return batch

    def sent(self, batch_id: str) -> None:
        """A batch has arrived; it may be that another worker, who sent it too, said so before."""
        if self._exists():
            self.db.execute(
                "UPDATE outbox SET body = NULL WHERE ledger_id || '-' || last_batch = ?", (batch_id,)
            )

    def _exists(self) -> bool:
        return self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'outbox'").fetchone() is not None


def _row(_number: int, taken_back: str | None, *values: Any) -> dict[str, Any]:
    row = dict(zip(COLUMNS, values, strict=True)) if taken_back is None else msgspec.json.decode(taken_back)
    started_at, ended_at = row["started_at"], row["ended_at"]
    row["duration_s"] = None if ended_at is None else round(ended_at - started_at, 6)
    row["started_at"] = _time(started_at)
    row["ended_at"] = _time(started_at if ended_at is None else ended_at)
    row["sign"] = 1 if taken_back is None else -1
    return row


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
