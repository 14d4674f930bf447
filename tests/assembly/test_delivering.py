"""A delivery is begun where there may be something to send, and not where there is nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.assembly.delivering import Delivering, DeliveryReport
from penstock.core.config import ClickHouseConfig
from penstock.store.clickhouse.progress import Progress, load
from penstock.store.ledger_keeper import Problem
from penstock.telemetry.logs import Logger


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@dataclass
class Stage:
    """A delivery that comes to these reports, on a clock of its own; each takes ten seconds."""

    ledger: Path
    reports: list[DeliveryReport]
    now: float = 1_000_000.0
    begun_at: list[float] = field(default_factory=list)
    delivering: Delivering = field(init=False)

    def __post_init__(self) -> None:
        log = Logger("info", "json")
        self.delivering = Delivering(self.ledger, ClickHouseConfig(), log, self.deliver, lambda: self.now)

    async def deliver(self, _ledger: Path, _config: ClickHouseConfig) -> DeliveryReport:
        self.begun_at.append(self.now)
        self.now += 10.0
        return self.reports[len(self.begun_at) - 1]

    def tend(self) -> None:
        asyncio.run(self.delivering.tend(self.now - 999_000.0))


def begun(ledger: Path, *reports: DeliveryReport, rounds: int, rows_came: bool = False) -> int:
    """How many deliveries are begun in so many rounds, an hour apart, that come to these reports."""
    stage = Stage(ledger, list(reports))
    for _ in range(rounds):
        if rows_came:
            stage.delivering.rows_came()
        stage.tend()
        stage.now += 3600.0
    return len(stage.begun_at)


def test_what_an_earlier_gateway_left_is_sent_and_then_nothing_is_begun(ledger: Path) -> None:
    assert begun(ledger, *[DeliveryReport(sent=3, unsent=0)] * 3, rounds=3) == 1


def test_rows_that_come_are_sent(ledger: Path) -> None:
    assert begun(ledger, *[DeliveryReport(sent=1, unsent=0)] * 3, rounds=3, rows_came=True) == 3


@pytest.mark.parametrize(
    "unfinished",
    [
        DeliveryReport(busy=True),
        DeliveryReport(unsent=7, problem=Problem("away")),
        DeliveryReport(problem=Problem("its process ended")),
        DeliveryReport(sent=1, unsent=2),
        DeliveryReport(sent=1),
    ],
)
def test_what_was_not_finished_is_begun_again(ledger: Path, unfinished: DeliveryReport) -> None:
    assert begun(ledger, unfinished, *[DeliveryReport(sent=2, unsent=0)] * 2, rounds=3) == 2


AWAY = DeliveryReport(unsent=7, problem=Problem("away", "bring it back"))


def test_it_is_tried_ever_more_rarely_from_the_end_of_the_last_try(ledger: Path) -> None:
    stage = Stage(ledger, [AWAY] * 9)
    while len(stage.begun_at) < 9:
        stage.tend()
        stage.now += 1.0
    waits = [after - before - 10.0 for before, after in pairwise(stage.begun_at)]

    assert waits == pytest.approx([15, 30, 60, 120, 240, 480, 600, 600], abs=2)


def test_others_can_see_how_it_goes(ledger: Path) -> None:
    stage = Stage(ledger, [DeliveryReport(sent=3, unsent=0), AWAY, AWAY, DeliveryReport(sent=7, unsent=0)])
    seen = []
    for _ in stage.reports:
        stage.delivering.rows_came()
        stage.tend()
        seen.append(load(ledger))
        stage.now += 990.0

    assert seen == [
        Progress(1_000_010),
        Progress(1_000_010, 1_001_010, "away", "bring it back", 1_001_025),
        Progress(1_000_010, 1_001_010, "away", "bring it back", 1_002_040),
        Progress(1_003_010),
    ]


def test_what_one_worker_did_is_not_forgotten_for_another(ledger: Path) -> None:
    reports = (DeliveryReport(sent=3, unsent=0), DeliveryReport(unsent=0), AWAY, AWAY)
    stages = [Stage(ledger, [report], 1_000_000.0 + 100.0 * number) for number, report in enumerate(reports)]
    seen = []
    for stage in stages:
        stage.tend()
        seen.append(load(ledger))

    assert [progress.sent_at for progress in seen] == [1_000_010.0] * 4
    assert [progress.failing_since for progress in seen] == [0.0, 0.0, 1_000_210.0, 1_000_210.0]


def test_each_trouble_is_logged_once(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = DeliveryReport(unsent=7, problem=Problem("no room"))
    stage = Stage(ledger, [AWAY, AWAY, full, DeliveryReport(sent=7, unsent=0, left_out=4)])
    for _ in stage.reports:
        stage.tend()
        stage.now += 3600.0
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()

    assert [json.loads(line)["event"].partition(":")[0] for line in lines] == [
        "away",
        "no room",
        "4 rows were not sent to ClickHouse",
        "ClickHouse takes rows again",
    ]
