"""The rows of the ledger that are still to be sent elsewhere, in the order in which they came.

A trigger notes each row in the transaction that makes it, so that what is in the ledger and what is to be sent can't
disagree. Rows leave in batches: a batch is put together once and kept until it is known to have arrived, so that one
that is sent again is the same to the byte, and can be recognised. A row that is taken back after it was put into a
batch follows with the sign -1. What waits takes some 75 bytes a row; the rows themselves are the ledger's.
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
# JSON of SQLite's own has 15 digits of a number, and a time of today needs 17; `quote` gives them all
_OLD = ", ".join(
    f"'{name}', json(lower(quote(old.{name})))" if name.endswith("_at") else f"'{name}', old.{name}"
    for name in COLUMNS
)
_ON_DELETE = f"""CREATE TRIGGER note_no_row AFTER DELETE ON requests BEGIN
    INSERT INTO unsent (entry_id, taken_back) SELECT old.entry_id, json_object({_OLD})
        WHERE NOT EXISTS (
            SELECT * FROM unsent, outbox WHERE entry_id = old.entry_id AND taken_back IS NULL AND number > old_until
        );
    DELETE FROM unsent WHERE entry_id = old.entry_id AND taken_back IS NULL;
END"""  # noqa: S608 - names of ours
_NEXT = f"""SELECT u.number, u.taken_back, {", ".join(f"r.{name}" for name in COLUMNS)}
    FROM unsent u LEFT JOIN requests r ON r.entry_id = u.entry_id
    WHERE u.number <= ? ORDER BY u.number LIMIT ?"""  # noqa: S608 - names of ours
_AGAIN = """INSERT INTO unsent (entry_id) SELECT entry_id FROM requests r
    WHERE coalesce(ended_at, started_at) >= ?
        AND NOT EXISTS (SELECT * FROM unsent u WHERE u.entry_id = r.entry_id AND u.taken_back IS NULL)
    ORDER BY started_at"""
_LAST = "SELECT coalesce(max(number), 0) FROM unsent"
_NEVER_SENT = "FROM unsent WHERE number <= ? AND number > (SELECT old_until FROM outbox)"
_BEHIND = (
    f"INSERT INTO unsent (entry_id, taken_back) SELECT entry_id, taken_back {_NEVER_SENT} ORDER BY number"
)
_NUMBER_MAX = 2**63 - 1

_FIRST_ROW = "json_extract(CAST(body AS TEXT), '$.rows[0].ended_at')"
WAITING = f"""SELECT
    (SELECT count(*) FROM unsent) + coalesce((SELECT json_array_length(CAST(body AS TEXT), '$.rows') FROM outbox), 0),
    coalesce(
        (SELECT CAST(strftime('%s', {_FIRST_ROW}) AS REAL) FROM outbox WHERE {_FIRST_ROW} IS NOT NULL),
        (SELECT coalesce(r.ended_at, r.started_at) FROM unsent u JOIN requests r ON r.entry_id = u.entry_id
            ORDER BY u.number LIMIT 1)
    )"""  # noqa: S608 - names of ours
"""The query for how many rows wait, and when the first of them ended, in seconds since the epoch; NULL for none."""


class Batch(msgspec.Struct, frozen=True):
    """Rows that are sent together.

    Args:
        id: of this batch alone, in this ledger.
        old: its rows may have arrived before, from a ledger that was lost.
        checked_at: when it was known what of it was there already, in seconds since the epoch; 0 where it is not.
        rows: with a `sign`, -1 for one that is taken back.
    """

    id: str
    old: bool
    rows: list[dict[str, Any]]
    checked_at: float = 0.0


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

    def send_again(self, since_s: float) -> int:
        """Notes rows anew that were sent, for a ClickHouse that has lost them; returns how many.

        Args:
            since_s: those that ended then or later, in seconds since the epoch.
        """
        if not self._exists():
            return 0
        with transaction(self.db):
            (last,) = self.db.execute(_LAST).fetchone()
            noted = self.db.execute(_AGAIN, (since_s,)).rowcount
            if noted:
                (until,) = self.db.execute(_LAST).fetchone()
                # what was never sent goes behind them, and stays known as such
                self.db.execute(_BEHIND, (last,))
                self.db.execute(f"DELETE {_NEVER_SENT}", (last,))
                self.db.execute("UPDATE outbox SET old_until = ?", (until,))
        return noted

    def count(self) -> int:
        """Rows that wait, those of the batch under way included."""
        if not self._exists():
            return 0
        (rows, _) = self.db.execute(WAITING).fetchone()
        return int(rows)

    def next_batch(self, rows_max: int, now_s: float) -> Batch | None:
        """The batch that is to be sent: the one given last, until it is `sent`; None where there is nothing to send.

        Args:
            now_s: seconds since the epoch.
        """
        if not self._exists():
            return None
        with transaction(self.db):
            ledger_id, last, old_until, body = self.db.execute("SELECT * FROM outbox").fetchone()
            if body is not None:
                return msgspec.json.decode(body, type=Batch)
            (first,) = self.db.execute("SELECT min(number) FROM unsent").fetchone()
            if first is None:
                return None
            old = first <= old_until
            found = self.db.execute(_NEXT, (old_until if old else _NUMBER_MAX, rows_max)).fetchall()
            rows = [_row(*one) for one in found]
            known = not old and all(row["sign"] > 0 for row in rows)
            batch = Batch(f"{ledger_id}-{last + 1}", old, rows, now_s if known else 0.0)
            self.db.execute("DELETE FROM unsent WHERE number <= ?", (found[-1][0],))
            self.db.execute("UPDATE outbox SET last_batch = last_batch + 1")
            self._keep(batch)
        return batch

    def checked(self, batch: Batch) -> None:
        """What is left to send of the batch under way; from now on it stays as it is."""
        if self._exists():
            self._keep(batch)

    def sent(self, batch_id: str) -> None:
        """A batch has arrived; it may be that another worker, who sent it too, said so before."""
        if self._exists():
            self.db.execute(
                "UPDATE outbox SET body = NULL WHERE ledger_id || '-' || last_batch = ?", (batch_id,)
            )

    def _keep(self, batch: Batch) -> None:
        self.db.execute(
            "UPDATE outbox SET body = ? WHERE ledger_id || '-' || last_batch = ?",
            (msgspec.json.encode(batch), batch.id),
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
