"""No row counts twice and none is missing, whichever side forgets what it had."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from penstock.store.journal_line import Line
from penstock.store.outbox import Outbox
from tests.clickhouse import (
    LONG_AGO,
    ClickHouseServer,
    Trouble,
    counted,
    deliver,
    ingest,
)
from tests.store.journals import NOON, begin_line, end_line, put, record, write


def lose_ledger(home: Path) -> None:
    for path in home.glob("usage.sqlite*"):
        path.unlink()


def expire(server: ClickHouseServer) -> None:
    """Has the server drop what it keeps no longer, as it does by itself sooner or later."""
    for table in ("llm_requests", "llm_usage_daily", "llm_minutes"):
        server.run(f"OPTIMIZE TABLE {table} FINAL")


def sums(server: ClickHouseServer) -> list[list[str]]:
    return server.query(
        "SELECT sum(requests), sum(completion_tokens), sum(cost_nano_usd) FROM llm_usage_daily"
    )


def line(entry: str, ended_at: float) -> Line:
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


def test_history_that_is_too_old_to_be_kept_waits_for_no_answer(server: ClickHouseServer, home: Path) -> None:
    put(home / "journal", "1-1-1.jsonl", line("old", LONG_AGO))
    ingest(home)
    report = deliver(home, server)

    assert (report.sent, report.left_out, report.unsent) == (0, 1, 0)


def test_rows_that_waited_longer_than_they_are_kept_count(server: ClickHouseServer, home: Path) -> None:
    ingest(home)
    put(home / "journal", "1-1-1.jsonl", line("waited", LONG_AGO), line("young", NOON))
    ingest(home)
    report = deliver(home, server)

    assert (report.sent, report.left_out) == (2, 0)
    assert sums(server) == [["2", "14", "10"]]


def test_rows_that_waited_longer_than_they_are_kept_count_beside_what_is_sent_again(
    server: ClickHouseServer, home: Path
) -> None:
    ingest(home)
    put(home / "journal", "1-1-1.jsonl", line("young", NOON))
    ingest(home)
    deliver(home, server)
    put(home / "journal", "2-2-1.jsonl", line("waited", LONG_AGO))
    ingest(home)
    with closing(sqlite3.connect(home / "usage.sqlite", isolation_level=None)) as db:
        again = Outbox(db).send_again(0.0)
    reports = [deliver(home, server), deliver(home, server)]

    assert again == 1
    assert [report.left_out for report in reports] == [0, 0]
    assert sums(server) == [["2", "14", "10"]]


@pytest.mark.parametrize("arrived", [True, False])
def test_a_batch_that_comes_again_after_the_server_has_forgotten_it_counts_once(
    server: ClickHouseServer, home: Path, arrived: bool
) -> None:
    ingest(home)
    write(home / "journal", record("r0"), record("r1"))
    ingest(home)
    if arrived:
        server.trouble.lose_answers = 10
    else:
        server.trouble.refuse = ["Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)"]
    deliver(home, server)
    server.trouble = Trouble()
    forget_inserts(server)
    with closing(sqlite3.connect(home / "usage.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE outbox SET body = json_set(CAST(body AS TEXT), '$.checked_at', 1.0)")
    report = deliver(home, server)

    assert (report.problem, report.unsent) == (None, 0)
    assert counted(server) == (2, 2, 2)


def forget_inserts(server: ClickHouseServer) -> None:
    """As after more inserts than it knows."""
    for window in (0, 100_000):
        for table in ("llm_requests", "llm_usage_daily", "llm_minutes"):
            server.run(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {window}")


def test_a_server_that_was_restored_from_a_backup_gets_what_it_lost_again(
    server: ClickHouseServer, home: Path
) -> None:
    ingest(home)
    write(home / "journal", record("r0"), record("r1"))
    ingest(home)
    deliver(home, server)
    partitions = {"llm_requests": "20261130", "llm_usage_daily": "202611", "llm_minutes": "202611"}
    for table, partition in partitions.items():
        server.run(f"CREATE TABLE backup_{table} AS {table}")
        server.run(f"ALTER TABLE backup_{table} REPLACE PARTITION ID '{partition}' FROM {table}")
    write(home / "journal", record("r2"))
    ingest(home)
    deliver(home, server)
    for table, partition in partitions.items():
        server.run(f"ALTER TABLE {table} REPLACE PARTITION ID '{partition}' FROM backup_{table}")
        server.run(f"DROP TABLE backup_{table}")
    restored = counted(server)
    with closing(sqlite3.connect(home / "usage.sqlite", isolation_level=None)) as db:
        again = Outbox(db).send_again(NOON - 86_400)
    report = deliver(home, server)

    assert restored == (2, 2, 2)
    assert (again, report.sent) == (3, 1)
    assert counted(server) == (3, 3, 3)


def test_a_row_whose_clock_was_set_back_counts_once(server: ClickHouseServer, home: Path) -> None:
    put(home / "journal", "1-1-1.jsonl", line("e1", NOON - 3600))
    ingest(home)
    deliver(home, server)
    lose_ledger(home)
    ingest(home)
    deliver(home, server)

    assert counted(server) == (1, 1, 1)


def test_two_gateways_write_to_one_server_and_one_of_them_forgets(
    server: ClickHouseServer, tmp_path: Path
) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    for number, home in enumerate(homes):
        home.mkdir()
        ingest(home)
        write(home / "journal", *(record(f"r{number}-{other}") for other in range(3)))
        ingest(home)
        deliver(home, server)
    lose_ledger(homes[0])
    for home in homes:
        write(home / "journal", record("r9"))
        ingest(home)
        deliver(home, server)

    assert counted(server) == (8, 8, 8)


def test_a_home_that_was_copied_takes_no_row_of_the_other_for_its_own(
    server: ClickHouseServer, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    ingest(one)
    shutil.copytree(one, two)
    for home, name in ((one, "r1"), (two, "r2")):
        write(home / "journal", record(name))
        ingest(home)
        deliver(home, server)

    assert counted(server) == (2, 2, 2)


def test_a_row_that_seemed_cut_off_to_an_earlier_ledger_counts_once(
    server: ClickHouseServer, home: Path
) -> None:
    put(home / "journal", "1-1-1.jsonl", begin_line("e1"))
    ingest(home)
    deliver(home, server)
    lose_ledger(home)
    ingest(home)
    put(home / "journal", "2-2-1.jsonl", end_line("e1", ended_at=NOON + 3, completion_tokens=7))
    ingest(home)  # before anything of this ledger was sent
    deliver(home, server)
    deliver(home, server)

    assert counted(server) == (1, 1, 1)
    assert server.query("SELECT outcome FROM llm_requests FINAL") == [["complete"]]


def test_a_batch_with_what_is_taken_back_may_come_twice(server: ClickHouseServer, home: Path) -> None:
    ingest(home)
    put(home / "journal", "1-1-1.jsonl", begin_line("e1"))
    ingest(home)
    deliver(home, server)
    put(home / "journal", "2-2-1.jsonl", end_line("e1", ended_at=NOON + 3, completion_tokens=7))
    ingest(home)
    server.trouble.lose_answers = 10
    first = deliver(home, server)
    server.trouble = Trouble()
    deliver(home, server)

    assert first.problem is not None
    assert counted(server) == (1, 1, 1)
    assert server.query("SELECT sum(interrupted), sum(completion_tokens) FROM llm_usage_daily") == [
        ["0", "7"]
    ]


@pytest.mark.parametrize(
    ("ttl", "left_out"),
    [
        ("MODIFY TTL toDateTime(ended_at) + INTERVAL 3 YEAR", 1),
        (
            "MODIFY TTL toDateTime(ended_at) + INTERVAL 1 DAY TO VOLUME 'default', toDate(ended_at) + INTERVAL 9 YEAR",
            0,
        ),
        (
            "MODIFY TTL toDate(ended_at) + INTERVAL 1 DAY RECOMPRESS CODEC(LZ4), toDate(ended_at) + INTERVAL 9 YEAR",
            0,
        ),
        ("REMOVE TTL", 0),
    ],
)
def test_how_long_rows_are_kept_is_asked_of_the_server(
    server: ClickHouseServer, home: Path, ttl: str, left_out: int
) -> None:
    put(home / "journal", "1-1-1.jsonl", line("old", LONG_AGO), line("young", NOON))
    ingest(home)
    server.run(f"ALTER TABLE llm_requests {ttl}")
    try:
        report = deliver(home, server)
    finally:
        server.run("ALTER TABLE llm_requests MODIFY TTL toDateTime(ended_at) + INTERVAL 1825 DAY")

    assert (report.problem, report.left_out) == (None, left_out)
