"""What `penstock clickhouse status` shows, for people who are woken by it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.errors import PenstockError
from penstock.core.units import format_duration

if TYPE_CHECKING:
    from penstock.core.config import ClickHouseConfig

# A try that is late by more than this is none: it takes a gateway to make one.
LATE_S = 120.0
# Who is woken does not wait as long as a batch may take.
PATIENCE_S = 5.0


async def look(config: ClickHouseConfig, ledger: Path, now: float) -> dict[str, Any]:
    """What is known; durations in seconds, None where there is none.

    Args:
        now: seconds since the epoch.
    """
    from penstock.store.clickhouse.progress import load

    rows, first_at = _waiting(ledger)
    progress = load(ledger)
    failing = {
        "failing_s": round(now - progress.failing_since, 1),
        "message": progress.message,
        "hint": progress.hint,
        "next_try_in_s": round(progress.next_try_at - now, 1),
    }
    return {
        "url": config.url,
        "database": config.database,
        **await _answers(config),
        "unsent_rows": rows,
        "first_unsent_s": None if first_at is None else round(max(0.0, now - first_at), 1),
        "last_sent_s": round(now - progress.sent_at, 1) if progress.sent_at else None,
        "delivery": failing if progress.failing_since else None,
        "at": now,
    }


def text(found: dict[str, Any]) -> str:
    """The same as lines."""
    return "\n".join(f"{name + ':':<12}{what}" for name, what in _lines(found))


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    where = f"{found['url']}, database {found['database']}"
    yield "ClickHouse", f"{where}: version {found['version']}" if found["version"] else where
    if found["problem"]:
        yield "Trouble", found["problem"]
    if found["pending"] is not None:
        pending = ", ".join(found["pending"])
        yield (
            "Migrations",
            f"not applied yet: {pending} (penstock clickhouse migrate)" if pending else "all applied",
        )
    age_s = found["first_unsent_s"]
    yield (
        "Rows",
        f"{found['unsent_rows']} wait"
        + ("" if age_s is None else f", the first for {format_duration(round(age_s))}"),
    )
    sent_s = found["last_sent_s"]
    yield (
        "Last sent",
        "never"
        if sent_s is None
        else f"{format_duration(round(sent_s))} ago ({_clock(found['at'] - sent_s)})",
    )
    delivery = found["delivery"]
    if delivery is not None:
        since = _clock(found["at"] - delivery["failing_s"])
        yield (
            "Failing",
            f"for {format_duration(round(delivery['failing_s']))} (since {since}): {delivery['message']}",
        )
        if delivery["hint"]:
            yield "Hint", delivery["hint"]
        yield "Next try", _next_try(delivery["next_try_in_s"], found["at"])


def _next_try(in_s: float, at: float) -> str:
    if in_s < -LATE_S:
        return f"was due at {_clock(at + in_s)}: no gateway runs here (penstock status)"
    return f"in {format_duration(round(in_s))} ({_clock(at + in_s)})" if in_s > 0 else "now"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


async def _answers(config: ClickHouseConfig) -> dict[str, Any]:
    """What the server says for itself, now."""
    from penstock.assembly.clickhouse import ClickHouse

    server = ClickHouse(config.model_copy(update={"timeout_s": min(config.timeout_s, PATIENCE_S)}))
    told: dict[str, Any] = {"version": None, "pending": None, "problem": None}
    try:
        told["version"] = (await server.ask("SELECT version() FORMAT TSV")).decode(errors="replace").strip()
        told["pending"] = [f"{one.number:04d} {one.name}" for one in await server.pending()]
    except PenstockError as error:
        told["problem"] = f"{error.message} ({error.hint})" if error.hint else error.message
    finally:
        server.close()
    return told


def _waiting(ledger: Path) -> tuple[int, float | None]:
    """Rows that wait in this home's ledger, and when the first of them ended."""
    import sqlite3
    import time
    from contextlib import suppress

    from penstock.store.ledger_file import LedgerFile
    from penstock.store.outbox import WAITING

    found = []
    with suppress(sqlite3.Error):  # nothing has been noted yet
        found = LedgerFile(ledger, time.time).rows(WAITING)
    return found[0] if found else (0, None)
