"""A delivery is begun where there may be something to send, and not where there is nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.assembly.delivering import Delivering, DeliveryReport
from penstock.core.config import ClickHouseConfig
from penstock.store.ledger_keeper import Problem
from penstock.telemetry.logs import Logger


def begun(*reports: DeliveryReport, rounds: int, rows_came: bool = False) -> int:
    """How many deliveries are begun in so many rounds, an hour apart, that come to these reports."""
    left = list(reports)

    async def deliver(_ledger: Path, _config: ClickHouseConfig) -> DeliveryReport:
        return left.pop(0)

    async def tend() -> None:
        delivering = Delivering(Path("ledger"), ClickHouseConfig(), Logger("error", "json"), deliver)
        for number in range(rounds):
            if rows_came:
                delivering.rows_came()
            await delivering.tend(3600.0 * (number + 1))

    asyncio.run(tend())
    return len(reports) - len(left)


def test_what_an_earlier_gateway_left_is_sent_and_then_nothing_is_begun() -> None:
    assert begun(*[DeliveryReport(sent=3, unsent=0)] * 3, rounds=3) == 1


def test_rows_that_come_are_sent() -> None:
    assert begun(*[DeliveryReport(sent=1, unsent=0)] * 3, rounds=3, rows_came=True) == 3


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
def test_what_was_not_finished_is_begun_again(unfinished: DeliveryReport) -> None:
    assert begun(unfinished, *[DeliveryReport(sent=2, unsent=0)] * 2, rounds=3) == 2
