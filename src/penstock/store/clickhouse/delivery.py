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


async def deliver(
    outbox: Callable[[], AbstractContextManager[Outbox | None]], ask: Ask, on_sent: Callable[[int], None]
) -> None:
    """Sends what is to be sent.

    Args:
        outbox: opens it for a moment; None where somebody else has the ledger now.
        on_sent: told how many rows have arrived, batch by batch.

    Raises:
        PenstockError: a batch was not taken. It is kept, and is the first one next time.
    """
    while True:
        with outbox() as box:
            batch = box.next_batch(BATCH_ROWS) if box is not None else None
        if batch is None:
            return
        await _send(batch, ask)
        with outbox() as box:
            if box is None:  # it goes again, and is recognised
                return
            box.sent(batch.id)
        on_sent(len(batch.rows))


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
    """Those of its rows that change what is there."""
    entries = [row["entry_id"] for row in batch.rows if _ENTRY.fullmatch(row["entry_id"])]
    listed = ", ".join(f"'{entry}'" for entry in entries)
    found = await ask(
        f"SELECT entry_id FROM {TABLE} WHERE entry_id IN ({listed}) "  # noqa: S608 - nothing but letters and digits
        "GROUP BY entry_id HAVING sum(sign) > 0 FORMAT TSV",
        b"",
        {},
    )
    there = set(found.decode(errors="replace").split())
    rows = []
    for row in batch.rows:  # one that is taken back, and comes anew, is in the batch twice
        entry, given = row["entry_id"], row["sign"] > 0
        if (entry in there) is not given:
            rows.append(row)
            (there.add if given else there.discard)(entry)
    return rows
