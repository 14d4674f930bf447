"""The client's own ceiling: measured on itself, and left out where it can't be."""

from __future__ import annotations

import asyncio

from penstock.bench.load.ceiling import measure_ceiling
from tests.bench.under_load import run


def test_a_ceiling_is_measured_and_leaves_nothing_behind() -> None:
    async def measure() -> tuple[float, int]:
        ceiling = await measure_ceiling()
        return ceiling, len(asyncio.all_tasks())

    ceiling, tasks = run(measure())

    assert ceiling > 0
    assert tasks <= 2  # this one, and the one that bounds it
