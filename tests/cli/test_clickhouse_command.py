"""`penstock clickhouse`."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from penstock.store.clickhouse.progress import Progress, save
from penstock.store.outbox import Outbox
from tests.cli.conftest import Command
from tests.clickhouse import ingest
from tests.store.journals import NOON, end_line, put

AWAY = '[clickhouse]\nurl = "http://127.0.0.1:9"\npassword = "its-password"\ntimeout = "1s"\n'


@pytest.fixture
def ledger(folder: Path) -> Path:
    """A ledger of two requests, both of which wait for a ClickHouse that is away."""
    (folder / "penstock.toml").write_text(AWAY)
    home = folder / ".penstock"
    home.mkdir()
    ingest(home)
    put(
        home / "journal",
        "1-1-1.jsonl",
        *(end_line(f"e{n}", ended_at=time.time() - 7300 + n) for n in range(2)),
    )
    ingest(home)
    return home / "usage.sqlite"


def test_without_a_url_it_says_where_one_is_set(penstock: Command) -> None:
    result = penstock("clickhouse", "status")

    assert result.code == 2
    assert "clickhouse.url is not set" in result.err


def test_status_tells_what_waits_while_the_server_is_away(penstock: Command, ledger: Path) -> None:
    now = time.time()
    save(ledger, Progress(now - 9000, now - 7200, "it says 500: no room", "make room", now + 240))
    result = penstock("clickhouse", "status")

    assert result.code == 1
    assert "Trouble:    ClickHouse at http://127.0.0.1:9 does not answer" in result.out
    assert "Rows:       2 wait, the first for 2h" in result.out
    assert "Last sent:  2h ago (" in result.out
    assert "Failing:    for 2h (since " in result.out
    assert ": it says 500: no room\nHint:       make room\nNext try:   in 4m (" in result.out
    assert "its-password" not in result.out + result.err


def test_status_tells_programs_the_same(penstock: Command, ledger: Path) -> None:
    now = time.time()
    save(ledger, Progress(failing_since=now - 60, message="no room", next_try_at=now + 15))
    told = json.loads(penstock("clickhouse", "status", "--json").out)

    assert told["unsent_rows"] == 2
    assert told["first_unsent_s"] == pytest.approx(7300, abs=30)
    assert (told["version"], told["pending"], told["last_sent_s"]) == (None, None, None)
    assert told["delivery"]["message"] == "no room"
    assert told["delivery"]["next_try_in_s"] == pytest.approx(15, abs=10)


def test_a_try_that_is_long_due_says_that_no_gateway_runs(penstock: Command, ledger: Path) -> None:
    now = time.time()
    save(ledger, Progress(failing_since=now - 7200, message="no room", next_try_at=now - 3600))

    assert "no gateway runs here" in penstock("clickhouse", "status").out


@pytest.mark.parametrize("left", ["", "{", '{"sent_at": "yesterday"}'])
def test_what_an_earlier_process_left_torn_is_nothing(penstock: Command, ledger: Path, left: str) -> None:
    ledger.with_name("usage.sqlite.delivery").write_text(left)
    result = penstock("clickhouse", "status")

    assert "Last sent:  never" in result.out


def test_resend_has_sent_rows_looked_at_again(penstock: Command, ledger: Path) -> None:
    with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
        batch = Outbox(db).next_batch(9, NOON)
        assert batch is not None
        Outbox(db).sent(batch.id)
    result = penstock("clickhouse", "resend", "--since", "2026-01-01")

    assert (result.code, result.out.split()[0]) == (0, "2")
    assert "2 wait" in penstock("clickhouse", "status").out


def test_resend_takes_a_day(penstock: Command, ledger: Path) -> None:
    result = penstock("clickhouse", "resend", "--since", "yesterday")

    assert result.code == 2
    assert "hint: --since 2026-11-01" in result.err


def test_sql_notes_what_it_makes(penstock: Command) -> None:
    printed = penstock("clickhouse", "sql").out

    assert printed.index("penstock_migrations") < printed.index("CREATE TABLE IF NOT EXISTS llm_requests")
    assert "INSERT INTO penstock_migrations (number, name) VALUES (6, 'otel_metrics');" in printed
    assert "$" not in printed
