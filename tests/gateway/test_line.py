"""Requests wait their turn, leave no trace when they go, and never take a permit with them."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import DeadlineError, Fault, OverloadError, Phase
from penstock.gateway.line import OTHER_TENANTS, SNAPSHOT_TENANTS_MAX, Line, Permit


class _NoWait(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that lets virtual time pass instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits for something that never comes"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._virtual = _NoWait()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def new_line(capacity: int = 1, queue_len_max: int = 10, *, sheds: bool = True) -> Line:
    return Line("m", queue_len_max=queue_len_max, clock=now_s, sheds=sheds, capacity=capacity)


def enter(
    line: Line,
    tenant: str = "a",
    *,
    cost_tokens: int = 100,
    wait_s: float = 60.0,
    priority: str = "standard",
    weight: float = 1.0,
) -> Coroutine[Any, Any, Permit]:
    return line.enter(
        tenant, weight=weight, priority=priority, cost_tokens=cost_tokens, deadline_s=now_s() + wait_s
    )


async def in_line(waiting: Awaitable[Permit]) -> asyncio.Task[Permit]:
    """The task of one that has come to wait."""
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    return task


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def wrapper() -> None:
        run(test())

    wrapper.__name__ = test.__name__
    return wrapper


@virtually
async def test_a_free_permit_is_taken_without_a_pause() -> None:
    line = new_line()

    with pytest.raises(StopIteration) as done:
        enter(line).send(None)

    assert isinstance(done.value.value, Permit)
    assert line.permits_out == 1


@virtually
async def test_the_next_one_is_admitted_when_a_permit_comes_back() -> None:
    line = new_line()
    first = await enter(line)
    second = await in_line(enter(line))
    assert len(line) == 1

    line.leave(first, 50)

    assert await second
    assert (len(line), line.permits_out) == (0, 1)


@virtually
async def test_a_permit_that_is_given_back_twice_counts_once() -> None:
    line = new_line(capacity=2)
    first, _ = await enter(line), await enter(line)

    line.leave(first)
    line.leave(first)

    assert line.permits_out == 1


@virtually
async def test_one_whose_time_is_up_is_told_so_and_leaves_the_line() -> None:
    line = new_line()
    await enter(line)

    with pytest.raises(DeadlineError) as late:
        await enter(line, wait_s=5.0)

    assert now_s() == 5.0
    assert late.value.phase is Phase.QUEUE
    assert (late.value.status, late.value.fault, late.value.code) == (503, Fault.GATEWAY, "queue_timeout")
    assert late.value.retry_after_s == 1
    assert (len(line), line.permits_out) == (0, 1)


@virtually
async def test_one_that_comes_without_time_is_told_so_at_once() -> None:
    line = new_line()
    await enter(line)

    with pytest.raises(DeadlineError) as late:
        await enter(line, wait_s=0.0)

    assert late.value.phase is Phase.QUEUE


@virtually
async def test_all_who_wait_can_be_turned_away_and_who_has_a_permit_keeps_it() -> None:
    line = new_line()
    held = await enter(line)
    waiting = [await in_line(enter(line, tenant)) for tenant in ("a", "a", "b")]

    line.turn_away(lambda: OverloadError("no longer here"))

    for one in waiting:
        with pytest.raises(OverloadError, match="no longer here"):
            await one
    assert (len(line), line.permits_out) == (0, 1)
    line.leave(held)
    assert await enter(line, "a")


@virtually
async def test_a_full_line_is_overload_and_no_fault_of_the_client() -> None:
    line = new_line(queue_len_max=1)
    await enter(line)
    waits = await in_line(enter(line))

    with pytest.raises(OverloadError) as full:
        await enter(line)

    assert (full.value.status, full.value.fault, full.value.code) == (503, Fault.GATEWAY, "queue_full")
    assert full.value.retry_after_s == 1
    assert "1 requests wait" in full.value.message
    waits.cancel()


@virtually
async def test_a_light_tenant_gets_a_place_in_a_line_that_a_heavy_one_has_filled() -> None:
    line = new_line(queue_len_max=3)
    holder = await enter(line)
    heavy = [await in_line(enter(line, "heavy")) for _ in range(3)]
    light = await in_line(enter(line, "light"))

    with pytest.raises(OverloadError) as full:
        await heavy[-1]
    line.leave(holder)

    assert full.value.code == "queue_full"
    assert await heavy[0]
    line.leave(heavy[0].result())
    assert await light
    heavy[1].cancel()


@virtually
async def test_a_wait_that_would_pass_the_deadline_is_turned_away_at_once() -> None:
    line = new_line()
    for _ in range(10):
        permit = await enter(line)
        await asyncio.sleep(10.0)
        line.leave(permit)
    await enter(line)
    waits = await in_line(enter(line))
    before_s = now_s()

    with pytest.raises(OverloadError) as shed:
        await enter(line, wait_s=12.0)

    assert now_s() == before_s
    assert (shed.value.code, shed.value.retry_after_s) == ("predicted_wait_too_long", 15)
    waits.cancel()


@virtually
async def test_one_that_is_cancelled_leaves_no_trace() -> None:
    line = new_line()
    first = await enter(line)
    second, third = await in_line(enter(line, "b")), await in_line(enter(line, "c"))

    second.cancel()
    await asyncio.wait([second])
    line.leave(first)

    assert await third
    assert line.snapshot().by_tenant == {}


@virtually
async def test_one_that_is_cancelled_as_its_turn_comes_gives_the_permit_on() -> None:
    line = new_line()
    first = await enter(line)
    second, third = await in_line(enter(line, "b")), await in_line(enter(line, "c"))

    line.leave(first)
    second.cancel()
    await asyncio.wait([second, third])

    assert second.cancelled()
    assert third.done()
    assert line.permits_out == 1


@virtually
async def test_a_turn_that_comes_to_one_just_cancelled_goes_on_to_the_next() -> None:
    line = new_line()
    first = await enter(line)
    second, third = await in_line(enter(line, "b")), await in_line(enter(line, "c"))

    second.cancel()
    line.leave(first)
    await asyncio.wait([second, third])

    assert second.cancelled()
    assert third.done()
    assert line.permits_out == 1


@virtually
async def test_one_whose_turn_has_come_leaves_no_timer_behind() -> None:
    line = new_line()
    first = await enter(line)
    second = await in_line(enter(line, wait_s=60.0))
    line.leave(first)
    await second

    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]

    assert all(timer.cancelled() for timer in timers)


@virtually
async def test_time_in_line_is_not_counted_as_time_with_a_permit() -> None:
    line = new_line(queue_len_max=50)
    first = await enter(line)
    tasks = [await in_line(enter(line, wait_s=1000.0)) for _ in range(20)]
    line.leave(first)
    for task in tasks:
        permit = await task
        await asyncio.sleep(10.0)
        line.leave(permit)
    await enter(line)

    assert line.snapshot().predicted_wait_s == pytest.approx(5.0, rel=0.1)


@virtually
async def test_one_whose_caller_waits_no_longer_gives_the_permit_on() -> None:
    line = new_line()
    first = await enter(line)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.0):
            await enter(line)
    line.leave(first)

    assert (len(line), line.permits_out) == (0, 0)


@virtually
async def test_a_coroutine_that_is_closed_amid_the_wait_leaves_the_line() -> None:
    line = new_line()
    await enter(line)
    waits = enter(line)
    waits.send(None)
    assert len(line) == 1

    waits.close()

    assert len(line) == 0


@virtually
async def test_a_deadline_that_passes_as_the_turn_comes_changes_nothing() -> None:
    line = new_line()
    first = await enter(line)
    second = await in_line(enter(line, wait_s=5.0))
    asyncio.get_running_loop().call_at(5.0, line.leave, first)

    done, _ = await asyncio.wait([second])

    granted = second.exception() is None
    assert done
    assert line.permits_out == (1 if granted else 0)


@virtually
async def test_more_capacity_admits_who_waits() -> None:
    line = new_line(capacity=0)
    waits = [await in_line(enter(line)) for _ in range(3)]

    line.set_capacity(2)
    await asyncio.wait(waits[:2])

    assert (len(line), line.permits_out) == (1, 2)
    waits[2].cancel()


@virtually
async def test_less_capacity_admits_nobody_until_it_fits() -> None:
    line = new_line(capacity=3)
    held = [await enter(line) for _ in range(3)]
    waits = await in_line(enter(line))
    line.set_capacity(1)

    line.leave(held[0])
    line.leave(held[1])
    await asyncio.sleep(1.0)
    assert not waits.done()
    assert line.permits_out == 1

    line.leave(held[2])
    assert await waits


@virtually
async def test_no_capacity_is_waited_out_until_a_replica_comes_back() -> None:
    line = new_line(capacity=1)
    line.leave(await enter(line))
    line.set_capacity(-1)
    assert line.capacity == 0
    waits = await in_line(enter(line))
    asyncio.get_running_loop().call_later(40.0, line.set_capacity, 1)

    assert await waits
    assert now_s() == 40.0


@virtually
async def test_new_limits_hold_for_who_comes_from_now_on() -> None:
    line = new_line(queue_len_max=2)
    await enter(line)
    waits = [await in_line(enter(line)) for _ in range(2)]

    line.set_limits(queue_len_max=0, sheds=True)

    with pytest.raises(OverloadError):
        await enter(line)
    assert len(line) == 2
    for task in waits:
        task.cancel()


@virtually
async def test_a_snapshot_tells_who_waits() -> None:
    line = new_line(queue_len_max=200)
    await enter(line)
    tasks = [await in_line(enter(line, "b", priority=p)) for p in ("batch", "batch", "interactive")]
    tasks += [await in_line(enter(line, f"t{i:02}")) for i in range(SNAPSHOT_TENANTS_MAX + 4)]

    snapshot = line.snapshot()

    assert (snapshot.length, snapshot.length_max) == (SNAPSHOT_TENANTS_MAX + 7, 200)
    assert snapshot.by_class == {"interactive": 1, "standard": SNAPSHOT_TENANTS_MAX + 4, "batch": 2}
    assert (snapshot.by_tenant["b"], snapshot.by_tenant[OTHER_TENANTS]) == (3, 5)
    assert len(snapshot.by_tenant) == SNAPSHOT_TENANTS_MAX + 1
    assert (snapshot.permits_out, snapshot.capacity, snapshot.predicted_wait_s) == (1, 1, None)
    for task in tasks:
        task.cancel()


@virtually
async def test_a_class_that_is_none_takes_no_permit() -> None:
    line = new_line()

    with pytest.raises(ValueError, match="priority"):
        await enter(line, priority="urgent")

    assert line.permits_out == 0


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 12))
@settings(max_examples=60)
def test_whatever_happens_every_caller_has_one_outcome_and_no_permit_is_lost(
    seed: int, capacity: int, queue_len_max: int
) -> None:
    rng = random.Random(seed)
    came: list[int] = []
    outcomes: list[tuple[int, str]] = []

    async def caller(line: Line, number: int) -> None:
        await asyncio.sleep(rng.uniform(0, 20))
        came.append(number)
        try:
            permit = await enter(
                line,
                rng.choice("abc"),
                cost_tokens=rng.randint(1, 1000),
                wait_s=rng.uniform(0, 20),
                priority=rng.choice(["interactive", "standard", "batch"]),
            )
        except (OverloadError, DeadlineError) as error:
            outcomes.append((number, error.code))
            return
        except asyncio.CancelledError:
            outcomes.append((number, "cancelled"))
            raise
        try:
            assert 0 < line.permits_out <= most
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 3)]))
        finally:
            line.leave(permit, rng.choice([None, 0, 300]))
            outcomes.append((number, "served"))

    async def main() -> None:
        nonlocal most
        line = new_line(capacity, queue_len_max)
        tasks = [asyncio.create_task(caller(line, i)) for i in range(60)]
        for _ in range(30):
            await asyncio.sleep(rng.uniform(0, 1))
            rng.choice(tasks).cancel()
            if rng.random() < 0.2:
                line.set_capacity(n := rng.randint(0, 5))
                most = max(most, n)
        line.set_capacity(1)
        await asyncio.wait(tasks)

        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert sorted(number for number, _ in outcomes) == sorted(came)
        assert (len(line), line.permits_out) == (0, 0)

    most = capacity
    run(main())
