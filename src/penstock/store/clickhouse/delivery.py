"""Delivery of the ledger's rows: batch after batch, each again until it has arrived, none twice.

ClickHouse recognises a batch that comes again, in the table and in all views that are fed from it. That is how a batch
is tried again within a day. Where it may have arrived long ago, or from a ledger that was lost, ClickHouse is asked
first what of it is there; and what is older than ClickHouse keeps rows is then left out, for nobody can tell.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from penstock.core.errors import PenstockError
from penstock.store.outbox import Batch, Outbox

TABLE = "llm_requests"
# A second's worth of a busy gateway; 3 MB before they are compressed.
BATCH_ROWS = 5_000
# ClickHouse knows the last 100,000 inserts (`non_replicated_deduplication_window`): those of 17 gateways in a day.
RECOGNISED_S = 86_400.0
# Who sends has to come to an end, and be told apart from who hangs.
ROUND_S = 60.0
TOO_LARGE = "clickhouse_too_large"
"""The code of an error that says so of a body."""

# Names of this many entries are longer than what ClickHouse reads of a query by itself.
_QUERY_BYTES_MAX = str(BATCH_ROWS * 150)
_INTERVAL = re.compile(r"(toInterval[A-Z][a-z]+\([0-9]{1,9}\))(?! (?:TO (?:DISK|VOLUME)|RECOMPRESS) )")
_MADE = (
    f"SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{TABLE}'"  # noqa: S608
    " FORMAT JSONCompactEachRow"
)

Ask = Callable[[str, bytes, Mapping[str, str]], Awaitable[bytes]]
"""Sends a query, what it inserts, and settings; gives the answer. Raises PenstockError."""


@dataclass
class Delivered:
    """What became of rows: they have arrived; or they are left out, since nobody can tell whether they had."""

    sent: int = 0
    left_out: int = 0


async def deliver(
    outbox: Callable[[], AbstractContextManager[Outbox | None]],
    ask: Ask,
    now: Callable[[], float],
    done: Delivered,
) -> None:
    """Sends what is to be sent, for a minute at most.

    Args:
        outbox: opens it for a moment; None where somebody else has the ledger now.
        now: seconds since the epoch.
        done: told what became of rows, batch by batch.

    Raises:
        PenstockError: a batch was not taken. It is kept, and is the first one next time.
    """
    known = _Known(ask)
    end_s = now() + ROUND_S
    while now() < end_s:
        with outbox() as box:
            batch = box.next_batch(BATCH_ROWS, now()) if box is not None else None
        if batch is None:
            return
        if now() - batch.checked_at > RECOGNISED_S:
            rows, left_out = await known.missing(batch)
            batch = msgspec.structs.replace(batch, rows=rows, checked_at=now())
            with outbox() as box:
                if box is None:
                    return
                box.checked(batch)
            done.left_out += left_out
        await _insert(batch.id, batch.rows, ask)
        with outbox() as box:
            if box is None:  # it goes again, and is recognised
                return
            box.sent(batch.id)
        done.sent += len(batch.rows)


async def _insert(batch_id: str, rows: Sequence[Mapping[str, Any]], ask: Ask) -> None:
    if not rows:
        return
    body = b"\n".join(map(msgspec.json.encode, rows))
    settings = {
        # of both: a copy of this ledger has the same ids, and what is sent again after a loss the same bytes
        "insert_deduplication_token": f"{batch_id}-{sha256(body).hexdigest()}",
        "deduplicate_blocks_in_dependent_materialized_views": "1",
        "async_insert": "0",
    }
    try:
        await ask(f"INSERT INTO {TABLE} FORMAT JSONEachRow", body, settings)
    except PenstockError as error:
        if error.code != TOO_LARGE or len(rows) == 1:
            raise
        half = len(rows) // 2
        await _insert(batch_id, rows[:half], ask)
        await _insert(batch_id, rows[half:], ask)


@dataclass
class _Known:
    """What ClickHouse knows of rows that may have been sent before."""

    ask: Ask
    horizon: str | None = None

    async def missing(self, batch: Batch) -> tuple[list[dict[str, Any]], int]:
        """The rows that change what is there, and how many are left out since ClickHouse drops rows so old."""
        horizon = await self._horizon() if batch.old else ""
        fresh = [row for row in batch.rows if row["ended_at"] >= horizon]
        there = await self._there(fresh)
        rows = []
        for row in fresh:  # one that is taken back, and comes anew, is in the batch twice
            times = there.setdefault(row["entry_id"], set())
            if row["sign"] > 0 and not times:
                times.add(row["ended_at"])
            elif row["sign"] < 0 and row["ended_at"] in times:
                times.discard(row["ended_at"])
            else:
                continue
            rows.append(row)
        return rows, len(batch.rows) - len(fresh)

    async def _there(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
        """When entries ended that are there."""
        if not rows:
            return {}
        # of both, for a clock may be set back, and what seemed cut off ended where it began
        times = [row[name] for row in rows for name in ("started_at", "ended_at")]
        names = ", ".join(sorted({_quoted(row["entry_id"]) for row in rows}))
        found = await self._rows(
            f"SELECT entry_id, toString(ended_at) FROM {TABLE} "  # noqa: S608 - quoted
            f"WHERE ended_at BETWEEN '{min(times)}' AND '{max(times)}' AND entry_id IN ({names}) "
            "GROUP BY entry_id, ended_at HAVING sum(sign) > 0 FORMAT JSONCompactEachRow"
        )
        there: dict[str, set[str]] = {}
        for entry, ended_at in found:
            there.setdefault(entry, set()).add(ended_at)
        return there

    async def _horizon(self) -> str:
        """The time since which it surely has what was sent, by its own clock, an hour on the safe side.

        Empty where it keeps rows for ever.
        """
        if self.horizon is None:
            (made,) = await self._rows(_MADE) or [[""]]
            intervals = _INTERVAL.findall(made[0].partition(" ENGINE = ")[2])
            if not intervals:
                self.horizon = ""
                return self.horizon
            times = ", ".join(f"addHours(now64(6, 'UTC') - {interval}, 1)" for interval in intervals)
            ((self.horizon,),) = await self._rows(
                f"SELECT toString(greatest({times})) FORMAT JSONCompactEachRow"
            )
        return self.horizon

    async def _rows(self, query: str) -> list[list[str]]:
        found = await self.ask(query, b"", {"max_query_size": _QUERY_BYTES_MAX})
        try:
            return [msgspec.json.decode(line, type=list[str]) for line in found.splitlines()]
        except msgspec.DecodeError as error:
            raise PenstockError(
                f"ClickHouse answers what it was not asked: {found[:100]!r}",
                code="clickhouse_answer",
                hint="see whether clickhouse.url leads to ClickHouse, and what is between",
            ) from error


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
