"""Accounts in memory: what `LocalLimits` keeps, and what it forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from penstock.policy.budget import FREE, Balance, Cost, Left, Limits, Refused, Standing, Subject
from penstock.store.limits import LimitStore, LocalLimits, Reservation

NOW_S = 1_800_000_000.0
KEY = Subject("key:a", Limits(requests_per_minute=60, tokens_per_minute=1000, parallel_requests=2))
TENANT = Subject("tenant:a", Limits(usd_per_month=1.0))
FREE_SUBJECT = Subject("tenant:free")

T = TypeVar("T")


class Clock:
    """A clock in the test's hands."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def run(scene: Coroutine[Any, Any, T]) -> T:
    """The result of one scene."""
    return asyncio.run(scene)


async def granted(store: LimitStore, *subjects: Subject, cost: Cost = FREE) -> Reservation:
    """A reservation, which is expected to be granted."""
    verdict = await store.reserve(subjects, cost)
    assert isinstance(verdict, Reservation), verdict
    return verdict


async def refused(store: LimitStore, *subjects: Subject, cost: Cost = FREE) -> str:
    """The limit that refuses a request, which is expected to be refused."""
    verdict = await store.reserve(subjects, cost)
    assert isinstance(verdict, Refused)
    return f"{verdict.subject_id} {verdict.limit_name}"


def test_a_request_is_counted_against_its_key_and_its_tenant() -> None:
    async def scene() -> tuple[Balance, ...]:
        store = LocalLimits(Clock())
        await granted(store, KEY, TENANT, cost=Cost(400, 0.25))
        return await store.usage((KEY, TENANT, FREE_SUBJECT))

    assert run(scene()) == (
        Balance("key:a", 1, 59, 600, 0.25, 0.0, 0.0),
        Balance("tenant:a", 1, None, None, 0.25, 0.0, 0.0),
        Balance("tenant:free", 0, None, None, 0.0, 0.0, 0.0),
    )


def test_what_was_used_takes_the_place_of_what_was_reserved_once() -> None:
    async def scene() -> tuple[Balance, ...]:
        store = LocalLimits(Clock())
        reservation = await granted(store, KEY, TENANT, cost=Cost(400, 0.25))
        await granted(store, KEY)
        await store.settle(reservation, Cost(100, 0.125))
        await store.settle(reservation, Cost(100, 0.125))
        await store.release(reservation)
        return await store.usage((KEY, TENANT))

    assert run(scene()) == (
        Balance("key:a", 1, 58, 900, 0.0, 0.125, 0.125),
        Balance("tenant:a", 0, None, None, 0.0, 0.125, 0.125),
    )


def test_a_released_request_leaves_no_trace() -> None:
    async def scene() -> tuple[Balance, ...]:
        store = LocalLimits(Clock())
        reservation = await granted(store, KEY, TENANT, cost=Cost(400, 0.25))
        await store.release(reservation)
        await store.release(reservation)
        await store.settle(reservation, Cost(400, 0.25))
        return await store.usage((KEY, TENANT))

    assert run(scene()) == (
        Balance("key:a", 0, 60, 1000, 0.0, 0.0, 0.0),
        Balance("tenant:a", 0, None, None, 0.0, 0.0, 0.0),
    )


def test_whoever_is_refused_by_its_tenant_keeps_its_own() -> None:
    async def scene() -> tuple[str, Standing]:
        store = LocalLimits(Clock())
        await store.seed_spend("tenant:a", 1.0, 1.0)
        return await refused(store, KEY, TENANT, cost=Cost(10, 0.1)), await store.standing((KEY, TENANT))

    assert run(scene()) == ("tenant:a usd_per_month", Standing(Left(60, 60, 0.0), Left(1000, 1000, 0.0)))


def test_accounts_that_are_as_good_as_fresh_are_forgotten() -> None:
    async def scene() -> tuple[int, int, tuple[Balance, ...]]:
        clock = Clock()
        store = LocalLimits(clock)
        await store.seed_spend("tenant:a", 0.5, 0.5)
        await granted(store, KEY)
        for number in range(1500):
            await store.settle(await granted(store, Subject(f"key:{number}", KEY.limits)), FREE)
        many = len(store)
        clock.now_s += 4000
        for number in range(2048 - 1500):
            await granted(store, Subject(f"new:{number}"))
        return many, len(store), await store.usage((KEY, TENANT))

    many, left, balances = run(scene())

    assert (many, left) == (1502, 550)
    assert balances[0].parallel == 1
    assert balances[1].month_usd == 0.5


def test_there_are_never_more_accounts_than_may_be_and_those_that_run_stay() -> None:
    async def scene() -> tuple[list[int], int]:
        clock = Clock()
        store = LocalLimits(clock, accounts_max=100)
        running = [await granted(store, Subject(f"run:{number}", KEY.limits)) for number in range(20)]
        sizes = []
        for number in range(1000):
            clock.now_s += 1
            await store.seed_spend(f"paid:{number}", 1.0, 1.0)
            sizes.append(len(store))
        balances = await store.usage([subject for it in running for subject in it.subjects])
        return sizes, sum(balance.parallel for balance in balances)

    sizes, running = run(scene())

    assert max(sizes) == 100
    assert running == 20


def test_both_accounts_of_a_request_are_kept_when_others_are_forgotten_for_them() -> None:
    async def scene() -> list[tuple[Balance, ...]]:
        store = LocalLimits(Clock(), accounts_max=6)
        return [
            await store.usage((await granted(store, Subject(f"k{at}"), Subject(f"t{at}"))).subjects)
            for at in range(10)
        ]

    assert {balance.parallel for balances in run(scene()) for balance in balances} == {1}
