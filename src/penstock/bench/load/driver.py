"""Sends a plan: each request at its own time, or as soon as a place is free.

An open loop has no cap of its own: what is due is sent, however much is under way. The one timer of the loop is set
to absolute times, so that a late request does not delay the next one. Turns of a session wait for each other, and
nothing else does. In a closed loop a place is held by a session until its last turn, thinking included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

from penstock.bench.load.call import Caller
from penstock.bench.load.health import Spread
from penstock.bench.load.pacer import Pacer
from penstock.bench.load.plan_file import PlanReader
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Cause, Sample

# How soon a plan that has not been written so far is looked at again.
PLAN_RETRY_S = 0.005
# What was warm-up, by time.
WARMUP_STAGE = -1
# After so many sends that were due already, answers are read: they must not wait for a burst to end.
AT_ONCE_MAX = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """How a plan is sent.

    Args:
        concurrency: requests under way at once, in this process; None is an open loop.
        duration_s: nothing is sent that is due at or after this; None sends all.
        warmup_s: what is due before this is of stage -1.
        ramp_s: over which a closed loop opens its places.
        drain_s: how long what is under way may go on behind the last send.
        offset: by what share of the time between two places this process opens its own, 0 to 1.
    """

    concurrency: int | None = None
    duration_s: float | None = None
    warmup_s: float = 0.0
    ramp_s: float = 0.0
    drain_s: float = 30.0
    offset: float = 0.0


@dataclass(slots=True)
class Tally:
    """How far a driver has come.

    Args:
        taken: requests read from the plan.
        sent: of these, requests begun.
        completed: requests with a whole answer.
        failed: requests with another end, but for those that were cancelled by plan or cut off.
        late_recent_s: the latest send of late, for who watches; set back to 0 by them.
        in_flight, in_flight_max, plan_waits, send_late: see `health.ProcessHealth`.
    """

    taken: int = 0
    sent: int = 0
    completed: int = 0
    failed: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    plan_waits: int = 0
    late_recent_s: float = 0.0
    send_late: Spread = field(default_factory=Spread)

    def begin(self, late_s: float) -> None:
        """A request is sent, `late_s` seconds behind its time."""
        self.send_late.note(late_s)
        self.late_recent_s = max(self.late_recent_s, late_s)
        self.sent += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def end(self, cause: Cause) -> None:
        """It is over."""
        self.in_flight -= 1
        if cause is Cause.NONE:
            self.completed += 1
        elif cause not in (Cause.CANCELLED, Cause.CUT_OFF):
            self.failed += 1


class Driver:
    """Sends one plan, once.

    Args:
        on_sample: told what came of each request; what it raises ends the load.
    """

    def __init__(
        self, caller: Caller, plan: PlanReader, pace: Pace, on_sample: Callable[[Sample], None]
    ) -> None:
        self._caller = caller
        self._plan = plan
        self._reading = asyncio.Lock()
        self._pace = pace
        self._on_sample = on_sample
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._no_more = asyncio.Event()
        self._halted = asyncio.Event()
        self._failure: BaseException | None = None
        self.tally = Tally()

    def halt(self) -> None:
        """Sends nothing more, and cuts off what is under way."""
        self._halted.set()

    async def run(self) -> None:
        """Sends everything, waits for the answers for `drain_s` at most, and cuts off what is left then."""
        halted = asyncio.create_task(self._halted.wait())
        sender = asyncio.create_task(self._send())
        try:
            await asyncio.wait({sender, halted}, return_when=asyncio.FIRST_COMPLETED)
            drained = asyncio.create_task(self._drained())
            await asyncio.wait(
                {drained, halted}, timeout=self._pace.drain_s, return_when=asyncio.FIRST_COMPLETED
            )
            drained.cancel()
        finally:
            self._halted.set()
            halted.cancel()
            sender.cancel()
            await asyncio.gather(sender, *self._cut_off(), return_exceptions=True)
        if self._failure is None and not sender.cancelled():
            self._failure = sender.exception()
        if self._failure is not None:
            raise self._failure

    # -- open loop ----------------------------------------------------------------------------------

    async def _send(self) -> None:
        if self._pace.concurrency is None:
            await self._send_on_time()
        else:
            await self._send_by_places(self._pace.concurrency)

    async def _send_on_time(self) -> None:
        rung = asyncio.Event()
        pacer = Pacer(rung.set)
        at_once = 0
        try:
            while turns := await self._next_turns():
                due_s = turns[0].at_s or 0.0
                if self._is_past(due_s):
                    return
                at_once += 1
                while self._caller.now_s() < due_s:
                    at_once = 0
                    rung.clear()
                    pacer.set(self._caller.zero_s + due_s)
                    await rung.wait()
                self._begin(self._converse(turns, due_s))
                if at_once >= AT_ONCE_MAX:
                    at_once = 0
                    await asyncio.sleep(0)
        finally:
            pacer.close()

    # -- closed loop --------------------------------------------------------------------------------

    async def _send_by_places(self, places: int) -> None:
        for number in range(places):
            self._begin(self._occupy(number))
        duration_s = self._pace.duration_s
        left_s = None if duration_s is None else max(0.0, duration_s - self._caller.now_s())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._no_more.wait(), left_s)

    async def _occupy(self, number: int) -> None:
        """Holds one place of the closed loop, from when it opens until there is no more to send."""
        pace = self._pace
        await self._sleep_until(pace.ramp_s * (number + pace.offset) / max(1, pace.concurrency or 1))
        while not self._is_past(free_s := self._caller.now_s()) and (turns := await self._next_turns()):
            await self._converse(turns, free_s)

    # -- both ---------------------------------------------------------------------------------------

    async def _converse(self, turns: list[PlannedRequest], due_s: float) -> None:
        """Sends the turns of a session one after the other; a request without one is its only turn."""
        for turn in turns:
            if turn is not turns[0]:
                due_s = max(self._caller.now_s() + turn.think_s, turn.at_s or 0.0)
                await self._sleep_until(due_s)
            if self._is_past(due_s):
                return
            await self._call(turn, due_s)

    async def _call(self, planned: PlannedRequest, due_s: float) -> None:
        self.tally.begin(self._caller.now_s() - due_s)
        sample = await self._caller.call(planned, due_s)
        self.tally.end(sample.cause)
        if due_s < self._pace.warmup_s:
            sample.stage = WARMUP_STAGE
        self._on_sample(sample)

    async def _next_turns(self) -> list[PlannedRequest]:
        """The next request, or all turns of the next session; empty at the end of the plan."""
        async with self._reading:
            first = await self._take()
            if first is None:
                self._no_more.set()
                return []
            turns = [first]
            while first.session >= 0 and await self._continues(first.session):
                following = await self._take()
                assert following is not None
                turns.append(following)
            if self._plan.peek() is None and self._plan.ended:
                self._no_more.set()
            return turns

    async def _continues(self, session: int) -> bool:
        """Whether the next request is of this session."""
        await self._wait_for_plan()
        following = self._plan.peek()
        return following is not None and following.session == session

    async def _take(self) -> PlannedRequest | None:
        await self._wait_for_plan()
        planned = self._plan.take()
        self.tally.taken += planned is not None
        return planned

    async def _wait_for_plan(self) -> None:
        """Returns when there is a next request, or the plan has ended."""
        if self._plan.peek() is not None or self._plan.ended:
            return
        self.tally.plan_waits += 1
        while self._plan.peek() is None and not self._plan.ended:  # noqa: ASYNC110 - it is a file that grows
            await asyncio.sleep(PLAN_RETRY_S)

    async def _sleep_until(self, due_s: float) -> None:
        left_s = due_s - self._caller.now_s()
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = due_s - self._caller.now_s()

    def _is_past(self, due_s: float) -> bool:
        """Whether what is due then is not to be sent any more."""
        if self._halted.is_set():
            return True
        return self._pace.duration_s is not None and due_s >= self._pace.duration_s

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self.halt()
        if not self._tasks:
            self._idle.set()

    async def _drained(self) -> None:
        while self._tasks:
            self._idle.clear()
            await self._idle.wait()

    def _cut_off(self) -> list[asyncio.Task[None]]:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks
