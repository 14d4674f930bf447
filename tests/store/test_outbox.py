"""What is to be sent of a ledger: each row once, in batches that stay the same until they have arrived."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from penstock.store.ledger import Ledger
from penstock.store.outbox import WAITING, Outbox
from tests.store.journals import NOON, begin_line, end_line, put, record, write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def ledger(home: Path, *, outbox: bool | None = True) -> Ledger:
    return Ledger(home / "usage.sqlite", home / "journal", lambda: NOON, outbox=outbox)


def box(home: Path) -> Outbox:
    return Outbox(sqlite3.connect(home / "usage.sqlite", isolation_level=None))


def ids(home: Path, rows_max: int = 100) -> list[tuple[str, int]]:
    """Takes the next batch as sent."""
    outbox = box(home)
    batch = outbox.next_batch(rows_max, NOON)
    if batch is not None:
        outbox.sent(batch.id)
    return [(row["request_id"], row["sign"]) for row in batch.rows] if batch else []


def test_rows_leave_in_their_order_and_once(home: Path) -> None:
    ledger(home).ingest()
    write(home / "journal", *(record(f"r{number}") for number in range(5)))
    ledger(home).ingest()
    write(home / "journal", record("r5"))
    ledger(home).ingest()

    assert box(home).count() == 6
    assert ids(home, 4) == [("r0", 1), ("r1", 1), ("r2", 1), ("r3", 1)]
    assert ids(home, 4) == [("r4", 1), ("r5", 1)]
    assert ids(home, 4) == []


def test_a_batch_that_was_not_sent_comes_again_as_it_was(home: Path) -> None:
    write(home / "journal", record("r0"))
    ledger(home).ingest()
    first = box(home).next_batch(10, NOON)
    write(home / "journal", record("r1"))
    ledger(home).ingest()

    assert first is not None
    assert box(home).next_batch(10, NOON) == first
    box(home).sent(first.id)
    second = box(home).next_batch(10, NOON)

    assert second is not None
    assert first.id != second.id
    assert [row["request_id"] for row in second.rows] == ["r1"]


def test_a_batch_that_two_workers_sent_takes_no_other_with_it(home: Path) -> None:
    write(home / "journal", record("r0"), record("r1"))
    ledger(home).ingest()
    one, other = box(home).next_batch(1, NOON), box(home).next_batch(1, NOON)
    assert one is not None
    assert one == other
    box(home).sent(one.id)
    second = box(home).next_batch(1, NOON)
    box(home).sent(one.id)  # the other worker comes late

    assert box(home).next_batch(1, NOON) == second != one


def test_rows_of_the_batch_under_way_wait_too(home: Path) -> None:
    write(home / "journal", *(record(f"r{number}") for number in range(3)))
    ledger(home).ingest()
    batch = box(home).next_batch(2, NOON)

    assert batch is not None
    assert box(home).count() == 3

    box(home).sent(batch.id)

    assert box(home).count() == 1


def test_what_was_there_before_may_have_been_sent_and_what_comes_was_not(home: Path) -> None:
    write(home / "journal", record("r0"))
    ledger(home, outbox=None).ingest()
    ledger(home).ingest()
    write(home / "journal", record("r1"))
    ledger(home).ingest()
    old = box(home).next_batch(1, NOON)
    assert old is not None
    box(home).sent(old.id)
    new = box(home).next_batch(1, NOON)

    assert new is not None
    assert (old.old, new.old) == (True, False)


@pytest.mark.parametrize(("sent_before", "expected"), [(True, [-1, 1]), (False, [1])])
def test_a_row_that_is_taken_back_is_taken_back_where_it_was_sent_too(
    home: Path, sent_before: bool, expected: list[int]
) -> None:
    ledger(home).ingest()
    put(home / "journal", "1-1-1.jsonl", begin_line("e1"))
    ledger(home).ingest()  # its writer is gone: it counts as cut off
    if sent_before:
        assert ids(home) == [("req-e1", 1)]
    put(home / "journal", "2-2-1.jsonl", end_line("e1"))
    ledger(home).ingest()

    assert [sign for _, sign in ids(home)] == expected


def test_a_row_that_may_have_been_sent_by_an_earlier_ledger_is_taken_back(home: Path) -> None:
    put(home / "journal", "1-1-1.jsonl", begin_line("e1"))
    ledger(home).ingest()
    put(home / "journal", "2-2-1.jsonl", end_line("e1"))
    ledger(home).ingest()

    assert [sign for _, sign in ids(home)] == [-1, 1]


def test_what_is_taken_back_is_what_was_sent_to_the_microsecond(home: Path) -> None:
    def leave() -> list[dict[str, object]]:
        batch = box(home).next_batch(9, NOON)
        assert batch is not None
        box(home).sent(batch.id)
        return batch.rows

    ledger(home).ingest()
    begin = begin_line("e1")
    put(home / "journal", "1-1-1.jsonl", msgspec.structs.replace(begin, started_at=NOON + 0.1234567))
    ledger(home).ingest()
    (sent,) = leave()
    put(home / "journal", "2-2-1.jsonl", end_line("e1"))
    ledger(home).ingest()

    assert leave()[0] == sent | {"sign": -1}


def test_what_may_have_been_sent_and_what_was_not_leave_apart(home: Path) -> None:
    write(home / "journal", record("r0"), record("r1"))
    ledger(home).ingest()
    write(home / "journal", record("r2"))
    ledger(home).ingest()

    assert ids(home) == [("r0", 1), ("r1", 1)]
    assert ids(home) == [("r2", 1)]


def test_only_what_was_not_sent_is_known_to_be_missing(home: Path) -> None:
    write(home / "journal", record("r0"))
    ledger(home).ingest()
    old = box(home).next_batch(9, NOON)
    assert old is not None
    box(home).sent(old.id)
    put(home / "journal", "8-8-1.jsonl", begin_line("e1"))
    ledger(home).ingest()
    new = box(home).next_batch(9, NOON)
    assert new is not None
    box(home).sent(new.id)
    put(home / "journal", "9-9-1.jsonl", end_line("e1"))
    ledger(home).ingest()
    taken_back = box(home).next_batch(9, NOON)

    assert taken_back is not None
    assert [batch.checked_at for batch in (old, new, taken_back)] == [0.0, NOON, 0.0]


def test_a_batch_that_was_looked_at_stays_as_it_is(home: Path) -> None:
    write(home / "journal", record("r0"), record("r1"))
    ledger(home).ingest()
    batch = box(home).next_batch(9, NOON)
    assert batch is not None
    left = msgspec.structs.replace(batch, rows=batch.rows[1:], checked_at=NOON)
    box(home).checked(left)

    assert box(home).next_batch(9, NOON + 5) == left


def test_rows_are_sent_again_that_a_server_has_lost(home: Path) -> None:
    ledger(home).ingest()
    lines = [end_line(f"e{day}", ended_at=NOON + day * 86_400) for day in range(4)]
    put(home / "journal", "1-1-1.jsonl", *lines)
    ledger(home).ingest()
    assert len(ids(home)) == 4
    write(home / "journal", record("r0"))
    ledger(home).ingest()

    assert box(home).send_again(NOON + 2 * 86_400) == 2
    assert [request for request, _ in ids(home)] == ["req-e2", "req-e3"]
    assert [request for request, _ in ids(home)] == ["r0"]
    assert ids(home) == []
    assert box(home).send_again(NOON + 9 * 86_400) == 0


def test_it_is_told_how_long_the_first_row_waits(home: Path) -> None:
    def waiting() -> tuple[int, float | None]:
        with closing(sqlite3.connect(home / "usage.sqlite")) as db:
            return tuple(db.execute(WAITING).fetchone())

    ledger(home).ingest()
    nothing = waiting()
    put(home / "journal", "1-1-1.jsonl", end_line("e1", ended_at=NOON + 7), end_line("e2", ended_at=NOON + 9))
    ledger(home).ingest()
    in_line = waiting()
    batch = box(home).next_batch(1, NOON)
    assert batch is not None
    under_way = waiting()
    box(home).sent(batch.id)

    assert (nothing, in_line, under_way, waiting()) == (
        (0, None),
        (2, NOON + 7),
        (2, NOON + 7),
        (1, NOON + 9),
    )


def test_times_are_told_so_that_anybody_can_read_them(home: Path) -> None:
    write(home / "journal", record("r0"))
    ledger(home).ingest()
    batch = box(home).next_batch(1, NOON)

    assert batch is not None
    (row,) = batch.rows
    assert row["started_at"] == row["ended_at"] == "2026-11-30 12:00:00.000000"
    assert row["duration_s"] == 0.0


def test_nothing_is_noted_where_nothing_is_to_be_sent(home: Path) -> None:
    write(home / "journal", record("r0"))
    ledger(home).ingest()
    ledger(home, outbox=False).ingest()

    assert box(home).count() == 0
    assert box(home).next_batch(1, NOON) is None

    ledger(home).ingest()

    assert ids(home) == [("r0", 1)]
