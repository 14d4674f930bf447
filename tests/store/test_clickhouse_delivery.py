"""Delivery ends, tells what it did, and believes no answer that is none."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.core.errors import PenstockError
from penstock.store.clickhouse.delivery import BATCH_ROWS, ROUND_S, TOO_LARGE, Ask, Delivered, deliver
from penstock.store.ledger import Ledger
from penstock.store.outbox import Outbox
from tests.store.journals import NOON, record, write


@dataclass
class Stage:
    """A ledger, and what is done to send its rows."""

    home: Path
    now: float = NOON
    done: Delivered = field(default_factory=Delivered)

    def rows(self, count: int) -> None:
        write(self.home / "journal", *(record(f"r{number}") for number in range(count)))
        self.ingest()

    def ingest(self) -> None:
        Ledger(self.home / "usage.sqlite", self.home / "journal", lambda: NOON, outbox=True).ingest()

    @contextmanager
    def outbox(self) -> Iterator[Outbox | None]:
        with closing(sqlite3.connect(self.home / "usage.sqlite", isolation_level=None)) as db:
            yield Outbox(db)

    def deliver(self, ask: Ask) -> None:
        asyncio.run(deliver(self.outbox, ask, lambda: self.now, self.done))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.ingest()
    return stage


def test_rows_that_were_sent_before_a_failure_are_told(stage: Stage) -> None:
    refusals = iter([False, True])

    async def ask(*_: object) -> bytes:
        if next(refusals):
            raise PenstockError("no room", code="clickhouse_refuses", hint="")
        return b""

    stage.rows(BATCH_ROWS + 1)
    with pytest.raises(PenstockError):
        stage.deliver(ask)

    assert stage.done == Delivered(sent=BATCH_ROWS)


def test_a_round_comes_to_an_end_while_rows_are_left(stage: Stage) -> None:
    async def ask(*_: object) -> bytes:
        stage.now += ROUND_S
        return b""

    stage.rows(BATCH_ROWS + 1)
    stage.deliver(ask)

    assert stage.done == Delivered(sent=BATCH_ROWS)
    with stage.outbox() as box:
        assert box is not None
        assert box.count() == 1


def test_halves_of_a_batch_have_ids_of_their_own_each_time_the_same(stage: Stage) -> None:
    tokens: list[str] = []
    lost = iter([True, False])

    async def ask(_query: str, body: bytes, settings: Mapping[str, str]) -> bytes:
        if body.count(b"\n") >= 2:
            raise PenstockError("413", code=TOO_LARGE)
        tokens.append(settings["insert_deduplication_token"])
        if len(tokens) == 2 and next(lost):
            raise PenstockError("hung up", code="clickhouse_away")
        return b""

    stage.rows(4)
    with pytest.raises(PenstockError):
        stage.deliver(ask)
    stage.deliver(ask)

    assert len(set(tokens)) == 2
    assert tokens == tokens[:2] * 2
    assert stage.done == Delivered(sent=4)


@pytest.mark.parametrize("answer", [b"Ok.", b"<html></html>", b'{"a": 1}', b"[1]"])
def test_an_answer_that_is_none_is_not_believed(tmp_path: Path, answer: bytes) -> None:
    async def ask(*_: object) -> bytes:
        return answer

    stage = Stage(tmp_path)
    stage.rows(1)  # of a ledger that may have been lost: it is asked for them
    with pytest.raises(PenstockError, match="answers what it was not asked"):
        stage.deliver(ask)

    assert stage.done == Delivered()
