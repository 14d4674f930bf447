"""A timer on the monotonic clock: never early, and set anew as often as one likes."""

from __future__ import annotations

import asyncio
import time

import pytest

from penstock.bench.load.pacer import Pacer
from tests.bench.under_load import run


@pytest.mark.parametrize("exact", [True, False])
def test_a_pacer_rings_once_and_never_before_its_time(exact: bool) -> None:
    async def ring() -> None:
        rang: list[float] = []
        pacer = Pacer(lambda: rang.append(time.monotonic()), exact=exact)
        for number in range(1, 11):
            due_s = time.monotonic() + 0.0037
            pacer.set(due_s)
            while len(rang) < number:
                await asyncio.sleep(0.001)
            assert rang[-1] >= due_s
        await asyncio.sleep(0.01)
        assert len(rang) == 10
        pacer.close()

    run(ring())


@pytest.mark.parametrize("exact", [True, False])
def test_a_pacer_rings_at_once_where_its_time_has_passed(exact: bool) -> None:
    async def ring() -> None:
        rang = asyncio.Event()
        pacer = Pacer(rang.set, exact=exact)
        pacer.set(-1.0)
        await rang.wait()
        pacer.close()

    run(ring())


@pytest.mark.parametrize("exact", [True, False])
def test_a_later_setting_replaces_the_one_before(exact: bool) -> None:
    async def ring() -> None:
        rang: list[float] = []
        pacer = Pacer(lambda: rang.append(time.monotonic()), exact=exact)
        due_s = time.monotonic() + 0.03
        pacer.set(due_s - 0.02)
        pacer.set(due_s)
        while not rang:
            await asyncio.sleep(0.001)
        assert rang[0] >= due_s
        pacer.close()
        pacer.close()  # twice does no harm

    run(ring())
