"""Sending a plan: on time and without a cap, by places, by sessions, and how it comes to an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from penstock.bench.load.driver import Driver, Pace, Tally
from penstock.bench.load.plan_file import PlanReader
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Cause, Sample
from tests.bench.under_load import (
    ANSWER,
    CHUNKED,
    answering,
    caller_of,
    chunk,
    endpoint_of,
    plan_in,
    planned,
    run,
    said,
)
from tests.engines.fake_engine import FakeEngine, Peer, Script


class Crowd:
    """A server that counts who is there; it answers when it is told to, or after `for_s`."""

    def __init__(self, for_s: float = 0.0, *, at_once: bool = True) -> None:
        self.now = self.most = self.served = 0
        self._for_s = for_s
        self.opened = asyncio.Event()
        if at_once:
            self.opened.set()

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.now += 1
            self.most = max(self.most, self.now)
            await self.opened.wait()
            await asyncio.sleep(self._for_s)
            self.now -= 1
            self.served += 1
            await peer.say(ANSWER)


def drive(
    folder: Path,
    script: Script,
    plan: Iterable[PlannedRequest],
    pace: Pace,
    beside: Callable[[Driver], Any] | None = None,
    on_sample: Callable[[Sample], None] | None = None,
) -> tuple[list[Sample], Tally]:
    """The samples of a plan, in the order of their ends."""

    async def all_of_it() -> tuple[list[Sample], Tally]:
        samples: list[Sample] = []
        async with FakeEngine(script) as server:
            caller = caller_of(endpoint_of(server), zero_s=time.monotonic())
            reader = plan_in(folder, plan)
            driver = Driver(caller, reader, pace, on_sample or samples.append)
            helper = asyncio.create_task(beside(driver)) if beside else None
            try:
                await driver.run()
            finally:
                caller.close()
                reader.close()
                if helper:
                    await helper
            return samples, driver.tally

    return run(all_of_it())


async def never(peer: Peer) -> None:
    """Begins an answer and does not go on."""
    await peer.request()
    await peer.say(CHUNKED + chunk(said("a")))
    await peer.hear_end()


def test_an_open_loop_sends_what_is_due_however_much_is_under_way(tmp_path: Path) -> None:
    crowd = Crowd(at_once=False)

    async def open_when_all_are_there(_: Driver) -> None:
        while crowd.now < 40:
            await asyncio.sleep(0.002)
        crowd.opened.set()

    plan = [planned(index, at_s=index * 0.001) for index in range(40)]
    samples, tally = drive(tmp_path, crowd, plan, Pace(), open_when_all_are_there)

    assert (crowd.most, tally.in_flight_max, tally.in_flight) == (40, 40, 0)
    assert {sample.cause for sample in samples} == {Cause.NONE}


def test_times_are_counted_from_the_schedule_and_nothing_is_sent_before_it(tmp_path: Path) -> None:
    plan = [planned(index, at_s=0.003 * index) for index in range(30)]

    samples, tally = drive(tmp_path, answering(), plan, Pace())

    assert sorted(sample.scheduled_s for sample in samples) == [request.at_s for request in plan]
    assert all(sample.sent_s is not None and sample.sent_s >= sample.scheduled_s for sample in samples)
    assert (tally.sent, tally.completed, tally.failed, tally.send_late.count) == (30, 30, 0, 30)


def test_an_open_loop_sends_nothing_that_is_due_behind_its_duration(tmp_path: Path) -> None:
    plan = [planned(index, at_s=0.01 * index) for index in range(100)]

    samples, _ = drive(tmp_path, answering(), plan, Pace(duration_s=0.055))

    assert sorted(sample.index for sample in samples) == [0, 1, 2, 3, 4, 5]


def test_a_closed_loop_keeps_as_many_under_way_as_it_has_places(tmp_path: Path) -> None:
    crowd = Crowd(0.01)

    samples, tally = drive(tmp_path, crowd, map(planned, range(20)), Pace(concurrency=3))

    assert (crowd.most, tally.in_flight_max, len(samples)) == (3, 3, 20)
    assert sorted(sample.index for sample in samples) == list(range(20))


def test_a_closed_loop_ends_with_its_duration_and_finishes_what_it_began(tmp_path: Path) -> None:
    samples, _ = drive(
        tmp_path, Crowd(0.01), map(planned, range(10_000)), Pace(concurrency=2, duration_s=0.1)
    )

    assert 2 <= len(samples) < 1000
    assert all(sample.scheduled_s < 0.1 for sample in samples)
    assert {sample.cause for sample in samples} == {Cause.NONE}


def test_the_places_of_a_ramp_open_one_after_the_other(tmp_path: Path) -> None:
    samples, _ = drive(tmp_path, never, map(planned, range(4)), Pace(concurrency=4, ramp_s=0.08, drain_s=0.2))

    opened = sorted(sample.scheduled_s for sample in samples)
    assert all(opens_s >= 0.02 * place for place, opens_s in enumerate(opened))


@pytest.mark.parametrize("concurrency", [None, 2])
def test_turns_of_a_session_wait_for_each_other_and_think_between(
    tmp_path: Path, concurrency: int | None
) -> None:
    plan = [
        planned(
            3 * session + turn, session=session, turn=turn, think_s=0.02 * turn, at_s=None if turn else 0.0
        )
        for session in range(3)
        for turn in range(3)
    ]

    samples, _ = drive(tmp_path, Crowd(0.005), plan, Pace(concurrency=concurrency))

    assert len(samples) == 9
    for session in range(3):
        turns = sorted((s for s in samples if s.session == session), key=lambda sample: sample.turn)
        for before, after in pairwise(turns):
            assert before.ended_s is not None
            assert after.scheduled_s >= before.ended_s + 0.02 * after.turn


def test_what_is_due_in_the_warm_up_is_of_its_own_stage(tmp_path: Path) -> None:
    plan = [planned(index, at_s=0.01 * index, stage=1) for index in range(10)]

    samples, _ = drive(tmp_path, answering(), plan, Pace(warmup_s=0.045))

    assert {sample.index for sample in samples if sample.stage == -1} == {0, 1, 2, 3, 4}
    assert {sample.index for sample in samples if sample.stage == 1} == {5, 6, 7, 8, 9}


@pytest.mark.parametrize("concurrency", [None, 2])
def test_what_is_under_way_when_the_run_ends_is_cut_off(tmp_path: Path, concurrency: int | None) -> None:
    plan = [planned(index, at_s=0.0) for index in range(2)]

    samples, tally = drive(
        tmp_path, never, plan, Pace(concurrency=concurrency, duration_s=0.05, drain_s=0.05)
    )

    assert [sample.cause for sample in samples] == [Cause.CUT_OFF] * 2
    assert (tally.in_flight, tally.failed, tally.completed) == (0, 0, 0)


@pytest.mark.parametrize("concurrency", [None, 2])
def test_a_load_that_is_halted_cuts_off_at_once_and_sends_no_more(
    tmp_path: Path, concurrency: int | None
) -> None:
    async def halt(driver: Driver) -> None:
        while driver.tally.in_flight < 2:
            await asyncio.sleep(0.002)
        driver.halt()

    plan = [planned(index, at_s=0.0 if index < 2 else 60.0) for index in range(5)]

    samples, _ = drive(tmp_path, never, plan, Pace(concurrency=concurrency, drain_s=60.0), halt)

    assert [sample.cause for sample in samples] == [Cause.CUT_OFF] * 2


def test_a_session_that_is_cut_off_has_no_further_turns(tmp_path: Path) -> None:
    plan = [planned(turn, session=0, turn=turn, at_s=None if turn else 0.0) for turn in range(3)]

    samples, _ = drive(tmp_path, never, plan, Pace(drain_s=0.05))

    assert [sample.turn for sample in samples] == [0]


def test_cancelled_requests_are_no_failures_and_refused_ones_are(tmp_path: Path) -> None:
    async def leave_or_be_refused(peer: Peer) -> None:
        if b'"leaves"' in await peer.request():
            await peer.hear_end()
        await peer.say(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")

    plan = [planned(0, at_s=0.0, body=b'{"leaves":1}', cancel_after_s=0.02), planned(1, at_s=0.0)]

    samples, tally = drive(tmp_path, leave_or_be_refused, plan, Pace())

    assert {sample.cause for sample in samples} == {Cause.CANCELLED, Cause.RATE_LIMITED}
    assert (tally.completed, tally.failed) == (0, 1)


def test_a_plan_that_is_written_too_late_is_waited_for_and_counted(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    plan_in(tmp_path / "whole", [planned(0)]).close()
    data = (tmp_path / "whole" / "plan.bin").read_bytes()

    async def write_on(driver: Driver) -> None:
        while not driver.tally.plan_waits:
            await asyncio.sleep(0.002)
        with (tmp_path / "plan.bin").open("ab") as file:
            file.write(data)

    async def all_of_it() -> list[Sample]:
        (tmp_path / "plan.bin").touch()
        samples: list[Sample] = []
        async with FakeEngine(answering()) as server:
            caller = caller_of(endpoint_of(server), zero_s=time.monotonic())
            reader = PlanReader(tmp_path / "plan.bin")
            driver = Driver(caller, reader, Pace(), samples.append)
            helper = asyncio.create_task(write_on(driver))
            await driver.run()
            await helper
            caller.close()
            reader.close()
        return samples

    assert len(run(all_of_it())) == 1


@pytest.mark.parametrize("concurrency", [None, 1])
def test_what_goes_wrong_with_the_samples_ends_the_load(tmp_path: Path, concurrency: int | None) -> None:
    def refuse(sample: Sample) -> None:
        raise OSError("no room")

    plan = [planned(index, at_s=0.0 if index < 3 else 60.0) for index in range(5)]

    with pytest.raises(OSError, match="no room"):
        drive(tmp_path, answering(), plan, Pace(concurrency=concurrency), on_sample=refuse)


def test_an_empty_plan_is_done_at_once(tmp_path: Path) -> None:
    assert drive(tmp_path, answering(), [], Pace(concurrency=3))[0] == []
    assert drive(tmp_path, answering(), [], Pace())[0] == []
