"""No row counts twice and none is missing, whichever side forgets what it had."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.core.record import Outcome
from penstock.store.clickhouse.delivery import RECOGNISED_S
from penstock.store.ledger import Ledger
from penstock.store.outbox import Outbox
from tests.clickhouse import (
    LONG_AGO,
    ClickHouseServer,
    Trouble,
    clickhouse,
    counted,
    deliver,
    ingest,
    migrate,
    settings,
)
from tests.store.journals import NOON, begin_line, end_line, put, record, write


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with clickhouse(tmp_path_factory.mktemp("clickhouse")) as server:
        asyncio.run(migrate(settings(server)))
        yield server


@pytest.fixture
def server(shared: ClickHouseServer) -> ClickHouseServer:
    for table in ("llm_requests", "llm_usage_daily", "llm_minutes"):
        shared.run(f"TRUNCATE TABLE {table}")
    shared.trouble = Trouble()
    return shared


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def lose_ledger(home: Path) -> None:
    for path in home.glob("usage.sqlite*"):
        path.unlink()


def expire(server: ClickHouseServer) -> None:
    """Has the server drop what it keeps no longer, as it does by itself sooner or later."""
    for table in ("llm_requests", "llm_usage_daily", "llm_minutes"):
        server.run(f"OPTIMIZE TABLE {table} FINAL")


def sums(server: ClickHouseServer) -> list[list[str]]:
    return server.query("SELECT sum(requests), sum(completion_tokens), sum(cost_nano_usd) FROM llm_usage_daily")


def line(entry: str, ended_at: float) -> object:
    return end_line(entry, ended_at=ended_at, completion_tokens=7, cost_nano_usd=5)


def test_a_ledger_that_was_made_again_counts_no_row_twice_that_the_server_has_dropped(
    server: ClickHouseServer, home: Path
) -> None:
    ingest(home)
    put(home / "journal", "1-1-1.jsonl", line("old", LONG_AGO), line("young", NOON))
    ingest(home)
    deliver(home, server)
    expire(server)
    assert server.query("SELECT entry_id FROM llm_requests") == [["young"]]
    before = sums(server)
    lose_ledger(home)
    put(home / "journal", "2-2-1.jsonl", line("new", NOON))
    ingest(home)
    report = deliver(home, server)

    assert before == [["2", "14", "10"]]
    assert sums(server) == [["3", "21", "15"]]
    assert (report.sent, report.left_out, report.unsent) == (1, 1, 0)
