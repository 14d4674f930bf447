"""The ledger's rows come to a real ClickHouse, each once, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from penstock.assembly.delivering import Delivering, DeliveryReport, deliver_apart
from penstock.core.config import ClickHouseConfig
from penstock.core.errors import PenstockError
from penstock.core.record import Outcome
from penstock.store.ledger import Ledger
from penstock.store.ledger_file import LedgerFile
from penstock.store.outbox import Outbox
from penstock.telemetry.logs import Logger
from tests.clickhouse import (
    ClickHouseServer,
    counted,
    deliver,
    ingest,
    migrate,
    settings,
)
from tests.e2e.processes import ready_gateway, remote, sim_engine, wait_until
from tests.store.journals import NOON, begin_line, end_line, put, record, write


def test_migrations_are_applied_once(server: ClickHouseServer) -> None:
    assert asyncio.run(migrate(settings(server))) == 0
    assert {"llm_requests", "llm_usage_daily", "otel_traces", "otel_logs", "otel_metrics_histogram"} <= {
        name for (name,) in server.query("SHOW TABLES")
    }


def test_tables_of_a_newer_penstock_are_left_alone(server: ClickHouseServer) -> None:
    server.run("INSERT INTO penstock_migrations (number, name) VALUES (999, 'later')")
    try:
        with pytest.raises(PenstockError, match="newer Penstock"):
            asyncio.run(migrate(settings(server)))
    finally:
        server.run("ALTER TABLE penstock_migrations DELETE WHERE number = 999 SETTINGS mutations_sync = 2")


def test_rows_and_their_sums_arrive(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"), record("r1", tenant="ads", outcome=Outcome.INTERRUPTED))
    ingest(home)
    report = deliver(home, server)

    assert report.problem is None
    assert (report.sent, report.unsent) == (2, 0)
    rows = server.query(
        "SELECT request_id, tenant, prompt_tokens, cost_nano_usd, attempts FROM llm_requests ORDER BY 1"
    )
    assert rows == [["r0", "search", "100", "27000", "1"], ["r1", "ads", "100", "27000", "1"]]
    sums = "tenant, sum(requests), sum(interrupted), sum(cost_nano_usd)"
    assert server.query(f"SELECT {sums} FROM llm_usage_daily GROUP BY tenant ORDER BY tenant") == [
        ["ads", "1", "1", "27000"],
        ["search", "1", "0", "27000"],
    ]


@pytest.mark.parametrize("trouble", ["refused", "answer lost"])
def test_a_batch_that_goes_again_counts_once(server: ClickHouseServer, home: Path, trouble: str) -> None:
    write(home / "journal", record("r0"), record("r1"))
    ingest(home)
    if trouble == "refused":
        server.trouble.refuse = ["Code: 252. DB::Exception: Too many parts. (TOO_MANY_PARTS)"]
    else:
        server.trouble.lose_answers = 10
    first = deliver(home, server)
    server.trouble.lose_answers = 0
    write(home / "journal", record("r2"))
    ingest(home)
    second = deliver(home, server)

    assert first.problem is not None
    assert second.problem is None
    assert server.inserts >= 2
    assert counted(server) == (3, 3, 3)


def test_a_ledger_that_was_made_again_sends_nothing_twice(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"), record("r1"))
    ingest(home)
    deliver(home, server)
    for path in home.glob("usage.sqlite*"):
        path.unlink()
    write(home / "journal", record("r2"))
    ingest(home)
    deliver(home, server)

    assert counted(server) == (3, 3, 3)


def test_a_row_that_is_taken_back_is_taken_back_there(server: ClickHouseServer, home: Path) -> None:
    put(
        home / "journal",
        "1-1-1.jsonl",
        msgspec.structs.replace(begin_line("e1"), started_at=NOON + 0.1234567),
    )
    ingest(home)
    deliver(home, server)
    put(home / "journal", "2-2-1.jsonl", end_line("e1", completion_tokens=7))
    ingest(home)
    deliver(home, server)

    assert counted(server) == (1, 1, 1)
    assert server.query("SELECT outcome, completion_tokens FROM llm_requests FINAL") == [["complete", "7"]]
    assert server.query("SELECT sum(interrupted) FROM llm_usage_daily") == [["0"]]


def test_what_is_taken_back_amid_old_rows_is_taken_back_there(server: ClickHouseServer, home: Path) -> None:
    put(home / "journal", "1-1-1.jsonl", begin_line("e1"), begin_line("e2"))
    Ledger(home / "usage.sqlite", home / "journal", lambda: NOON).ingest()
    ingest(home)  # both were there before anything was to be sent
    with closing(sqlite3.connect(home / "usage.sqlite", isolation_level=None)) as db:
        first = Outbox(db).next_batch(1, NOON)
        assert first is not None
        assert [row["entry_id"] for row in first.rows] == ["e1"]
    put(home / "journal", "2-2-1.jsonl", end_line("e1", completion_tokens=7))
    ingest(home)
    deliver(home, server)

    rows = server.query("SELECT entry_id, outcome FROM llm_requests FINAL ORDER BY entry_id")
    assert rows == [["e1", "complete"], ["e2", "interrupted"]]
    assert counted(server) == (2, 2, 2)


def test_of_several_workers_one_sends(server: ClickHouseServer, home: Path) -> None:
    async def both() -> list[DeliveryReport]:
        ledger = home / "usage.sqlite"
        return await asyncio.gather(*(deliver_apart(ledger, settings(server)) for _ in range(3)))

    write(home / "journal", *(record(f"r{number}") for number in range(3)))
    ingest(home)
    reports = asyncio.run(both())

    assert [report.problem for report in reports] == [None] * 3
    assert sum(report.sent for report in reports) == 3
    assert counted(server) == (3, 3, 3)


def test_while_another_worker_sends_nothing_is_known_of_the_server(home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    away = ClickHouseConfig.model_validate({"url": "http://127.0.0.1:9", "timeout": "1s"})
    delivering = Delivering(home / "usage.sqlite", away, Logger("error", "json"))
    asyncio.run(delivering.tend(0.0))
    with LedgerFile(home / "usage.sqlite.delivery", lambda: NOON).alone(0.0):
        asyncio.run(delivering.tend(1000.0))

    assert delivering.failing
    assert delivering.unsent_rows == 1


def test_a_server_that_is_away_loses_nothing(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    away = ClickHouseConfig.model_validate({"url": "http://127.0.0.1:9", "timeout": "1s"})
    report = asyncio.run(deliver_apart(home / "usage.sqlite", away))

    assert report.problem is not None
    assert "does not answer" in report.problem.message
    assert (report.sent, report.unsent) == (0, 1)
    deliver(home, server)
    assert counted(server) == (1, 1, 1)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Code: 60. DB::Exception: Table default.llm_requests does not exist. (UNKNOWN_TABLE)", "migrate"),
        ("Code: 243. DB::Exception: Cannot reserve 1 MiB. (NOT_ENOUGH_SPACE)", "make room"),
    ],
)
def test_a_refusal_says_what_to_do(server: ClickHouseServer, home: Path, said: str, hint: str) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.trouble.refuse = [said]
    report = deliver(home, server)

    assert report.problem is not None
    assert said[:40] in report.problem.message
    assert hint in report.problem.hint


def test_a_password_is_given_and_not_shown(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.trouble.password = "its-password"
    try:
        refused = deliver(home, server)
        config = settings(server, user="penstock", password="its-password")
        taken = asyncio.run(deliver_apart(home / "usage.sqlite", config))
    finally:
        server.trouble.password = ""

    assert refused.problem is not None
    assert "clickhouse.password" in refused.problem.hint
    assert taken.problem is None
    assert "its-password" not in repr(config)


def test_percentiles_over_minutes_are_those_of_the_requests(server: ClickHouseServer, home: Path) -> None:
    lines = [end_line(f"e{number}", ttft_s=number / 100, stream=True) for number in range(1, 101)]
    put(home / "journal", "1-1-1.jsonl", *lines)
    ingest(home)
    deliver(home, server)
    (row,) = server.query(
        "SELECT arrayJoin(quantilesTDigestMerge(0.5, 0.95, 0.99)(ttft_s)) FROM llm_minutes LIMIT 1"
    )

    assert float(row[0]) == pytest.approx(0.5, abs=0.02)


def test_what_a_gateway_served_comes_there_by_itself(server: ClickHouseServer, home: Path) -> None:
    toml = f'[clickhouse]\nurl = "{server.url}"\n'
    with sim_engine(home, "--model", "m") as sim, ready_gateway(home, remote("m", sim) + toml) as front:
        reply = front.ask("hello", "m", stream=True)
        assert reply.status == 200

        wait_until(lambda: counted(server)[0] == 1, "the row")

        row = server.query("SELECT model, status, stream, ttft_s > 0, tpot_s > 0, route FROM llm_requests")
        assert row == [["m", "200", "true", "1", "1", "/v1/chat/completions"]]
        page = front.admin("/metrics").body.decode()
        assert "\npenstock_clickhouse_failing 0\n" in page
        shown = "Migrations: all applied\nRows:       0 wait\nLast sent:  "
        wait_until(lambda: shown in front.penstock("clickhouse", "status").stdout, "no row to wait")


def test_an_error_that_comes_after_200_is_an_error(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.trouble.refuse_late = ["Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)"]
    report = deliver(home, server)

    assert report.problem is not None
    assert "Memory limit exceeded" in report.problem.message
    assert (report.sent, report.unsent) == (0, 1)


def test_a_batch_that_is_too_large_is_sent_in_parts(server: ClickHouseServer, home: Path) -> None:
    ingest(home)
    write(home / "journal", *(record(f"r{number}") for number in range(40)))
    ingest(home)
    server.trouble.body_bytes_max = 500
    report = deliver(home, server)

    assert (report.problem, report.sent) == (None, 40)
    assert server.inserts > 3
    assert counted(server) == (40, 40, 40)


def test_a_row_that_is_too_large_by_itself_waits(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.trouble.body_bytes_max = 10
    report = deliver(home, server)

    assert report.problem is not None
    assert "413" in report.problem.message
    assert report.unsent == 1


def test_what_is_no_clickhouse_takes_no_rows(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.trouble.page = b"<html>Welcome to nginx</html>"
    report = deliver(home, server)

    assert report.problem is not None
    assert "is not ClickHouse" in report.problem.message
    assert "clickhouse.url" in report.problem.hint
    assert report.unsent == 1


def test_rows_wait_for_all_of_their_tables(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.run("ALTER TABLE penstock_migrations DELETE WHERE number = 2 SETTINGS mutations_sync = 2")
    try:
        report = deliver(home, server)
        migrated = asyncio.run(migrate(settings(server)))
    finally:
        deliver(home, server)

    assert report.problem is not None
    assert "migrations 0002 are not applied" in report.problem.message
    assert "penstock clickhouse migrate" in report.problem.hint
    assert migrated == 1
    assert counted(server) == (1, 1, 1)


def test_a_password_that_an_answer_repeats_is_not_told(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    server.trouble.password = "its-password"
    server.trouble.refuse = ["Code: 1. DB::Exception: no such thing as its-password (UNKNOWN)"]
    report = deliver(home, server, user="penstock", password="its-password")

    assert report.problem is not None
    assert "no such thing as *** (" in report.problem.message


def test_a_ledger_that_cannot_be_written_is_told(server: ClickHouseServer, home: Path) -> None:
    write(home / "journal", record("r0"))
    ingest(home)
    with closing(sqlite3.connect(home / "usage.sqlite", isolation_level=None)) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON outbox BEGIN SELECT raise(FAIL, 'disk is full'); END"
        )
    report = deliver(home, server)

    assert report.problem is not None
    assert "can't be used: disk is full" in report.problem.message
    assert report.unsent == 1
