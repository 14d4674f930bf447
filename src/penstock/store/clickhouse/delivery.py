"""Delivery of the ledger's rows: batch after batch, each again until it has arrived, none twice.

ClickHouse recognises a batch that comes again by its id, in the table and in all views that are fed from it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager

import msgspec

from penstock.store.outbox import Batch, Outbox

TABLE = "llm_requests"
# A second's worth of a busy gateway; 3 MB before they are compressed.
BATCH_ROWS = 5_000

_ENTRY = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

Ask = Callable[[str, bytes, Mapping[str, str]], Awaitable[bytes]]
"""Sends a query, what it inserts, and settings; gives the answer. Raises PenstockError."""


class Delivered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a delivery came to: rows that were sent now, and rows that are still to be sent."""

    sent: int = 0
    unsent: int = 0


async def deliver(outbox: Callable[[], AbstractContextManager[Outbox | None]], ask: Ask) -> Delivered:
    """Sends what is to be sent.

    Args:
        outbox: opens it for a moment; None where somebody else has the ledger now.

    Raises:
        PenstockError: a batch was not taken. It is kept, and is the first one next time.
    """
    sent_rows = 0
    while True:
        with outbox() as box:
            if box is None:
                return Delivered(sent_rows)
            batch, waiting = box.next_batch(BATCH_ROWS), box.count()
        if batch is None:
            return Delivered(sent_rows, waiting)
        await _send(batch, ask)
        with outbox() as box:
            if box is None:  # it goes again, and is recognised
                return Delivered(sent_rows)
            box.sent(batch.id)
        sent_rows += len(batch.rows)


async def _send(batch: Batch, ask: Ask) -> None:
    rows = await _fresh(batch, ask) if batch.old else batch.rows
    if rows:
        body = b"\n".join(map(msgspec.json.encode, rows))
        settings = {
            "insert_deduplication_token": batch.id,
            "deduplicate_blocks_in_dependent_materialized_views": "1",
            "async_insert": "0",
        }
        await ask(f"INSERT INTO {TABLE} FORMAT JSONEachRow", body, settings)


async def _fresh(batch: Batch, ask: Ask) -> list[dict[str, object]]:
    """Those of its rows that are not there yet."""
    entries = [row["entry_id"] for row in batch.rows if _ENTRY.fullmatch(row["entry_id"])]
    listed = ", ".join(f"'{entry}'" for entry in entries)
    found = await ask(
        f"SELECT entry_id FROM {TABLE} WHERE entry_id IN ({listed}) "  # noqa: S608 - nothing but letters and digits
        "GROUP BY entry_id HAVING sum(sign) > 0 FORMAT TSV",
        b"",
        {},
    )
    there = set(found.decode(errors="replace").split())
    return [row for row in batch.rows if row["entry_id"] not in there]
