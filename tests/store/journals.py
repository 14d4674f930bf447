"""Journals with what a test wants in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from penstock.core.errors import PenstockError
from penstock.core.record import Attempt, Outcome, RequestRecord, Usage
from penstock.policy.cost import Price
from penstock.store.journal import Journal
from penstock.store.journal_line import Begin, End, Line, decode_line, encode_line

NOON = 1_796_040_000.0  # 2026-11-30 12:00 UTC
PRICE = Price(0.15, 0.6)


def record(
    request_id: str = "r1",
    *,
    tenant: str = "search",
    key_id: str = "k1",
    model: str = "llama",
    outcome: Outcome = Outcome.COMPLETE,
) -> RequestRecord:
    """A request that has ended: 100 tokens in, 20 out, for 0.000027 dollars."""
    return RequestRecord(
        request_id,
        "POST",
        "/v1/chat/completions",
        arrived_s=0.0,
        started_at=NOON,
        tenant=tenant,
        key_id=key_id,
        model=model,
        status=200,
        outcome=outcome,
        attempts=[Attempt("llama-0", "only", 0.0)],
        usage=Usage(100, 20, "engine"),
        cost_usd=PRICE.usd(100, 20),
    )


def journal(folder: Path, **options: object) -> Journal:
    """A journal whose clock stands at `NOON`."""
    return Journal(folder, lambda: NOON, **options)  # type: ignore[arg-type]


def write(folder: Path, *records: RequestRecord) -> None:
    """A finished file with whole requests."""
    with_lines = journal(folder)
    for one in records:
        with_lines.end(with_lines.begin(one, 200), one, PRICE)
    with_lines.close()


def begin_line(entry: str, **members: object) -> Begin:
    """The first line of `entry`."""
    return Begin(entry, f"req-{entry}", "search", "k1", "llama", "/v1/chat/completions", NOON, **members)  # type: ignore[arg-type]


def end_line(entry: str, **members: object) -> End:
    """The last line of `entry`."""
    given = {"ended_at": NOON, "status": 200, "outcome": "complete"} | members
    return End(entry, f"req-{entry}", "search", "k1", "llama", "/v1/chat/completions", NOON, **given)  # type: ignore[arg-type]


def put(folder: Path, name: str, *lines: Line) -> Path:
    """A finished file with just these lines."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(b"".join(encode_line(line) for line in lines))
    return path


def lines_in(folder: Path) -> list[Line | None]:
    """All lines of all files, in order; None for what is none."""
    raw = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    return [decode_line(one) for one in raw.split(b"\n") if one]


def rows_of(
    ledger: Path, columns: str = "request_id, outcome", order: str = "request_id"
) -> list[tuple[Any, ...]]:
    """The rows of `requests`."""
    with sqlite3.connect(ledger) as db:
        found = db.execute(f"SELECT {columns} FROM requests ORDER BY {order}").fetchall()
    db.close()
    return found


def sums_agree(ledger: Path) -> bool:
    """Whether the sums kept are those of the rows."""
    group = "day, tenant, key_id, model"
    sums = """count(*), sum(outcome = 'interrupted'), coalesce(sum(prompt_tokens), 0),
        coalesce(sum(completion_tokens), 0), sum(cost_nano_usd)"""
    db = sqlite3.connect(ledger)
    kept = db.execute(f"SELECT * FROM daily ORDER BY {group}").fetchall()
    made = db.execute(f"SELECT {group}, {sums} FROM requests GROUP BY {group} ORDER BY {group}").fetchall()
    db.close()
    return kept == made


def told(errors: Iterable[PenstockError]) -> list[str]:
    """The codes of what was told."""
    return [error.code for error in errors]
