"""What stalls loses its requests and comes back with a sign of life; what is full is busy; no other is touched."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.core.config import Address
from penstock.core.errors import EngineError
from penstock.engines.catalog import SPECS
from penstock.gateway import vigil
from penstock.gateway.replicas import Replicas
from penstock.gateway.traffic import Traffic
from penstock.gateway.vigil import CANARY_REST_S, LOOK_EVERY_S, TURN_AFTER_S, Vigil
from penstock.policy import stall
from penstock.policy.fleet import Event, Fleet, Replica, State
from penstock.wire.exposition import Pulse

STALL_S = 4.0
Play = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def play() -> Play:
    def run(scene: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30.0):
                await scene

        asyncio.run(bounded())

    return run


@dataclass(eq=False)
class Attempt:
    """An attempt under way."""

    streams: bool = True
    waits_for_client: bool = False
    heard_s: float = -math.inf
    errors: list[EngineError] = field(default_factory=list)

    def cut(self, error: EngineError) -> None:
        self.errors.append(error)


class Probes:
    """Answers as a test has said; a canary waits until it is said."""

    def __init__(self) -> None:
        self.steps = 1.0
        self.page: tuple[Pulse | None, str] | None = None
        self.canaries = 0
        self.keys: list[str] = []
        self.answer: asyncio.Future[tuple[Event, str, str]] = asyncio.get_running_loop().create_future()

    async def pulse(self, asked: Replica, *_: Any) -> tuple[Pulse | None, str]:
        self.keys.append(asked.api_key)
        return self.page or (Pulse("vllm:iteration_tokens_total_count", self.steps), "")

    async def canary(self, asked: Replica, *_: Any) -> tuple[Event, str, str]:
        self.canaries += 1
        self.keys.append(asked.api_key)
        return await self.answer


def replica(name: str, state: State = State.READY) -> Replica:
    return Replica(name, "m", "vllm", Address("h", 1), "", state=state)


class Scene:
    """A vigil over replicas in a state of the test's choice, by a clock of its own."""

    def __init__(self, *replicas: Replica, permits: int = 8) -> None:
        self.changes: list[tuple[str, State, State]] = []
        self.bugs: list[BaseException] = []
        anything: Any = None
        self.replicas = Replicas(
            lambda: (),
            frozenset,
            lambda replica: SPECS[replica.engine],
            anything,
            lambda before, after: self.changes.append((after.name, before.state, after.state)),
            lambda _, error: self.bugs.append(error),
            lambda _: "",
        )
        self.replicas.fleet = Fleet(replicas)
        self.replicas._hurry = {one.name: asyncio.Event() for one in replicas}
        self.probes = Probes()
        self.permits = permits
        self.now_s = 1000.0
        probes: Any = self.probes
        self.vigil = Vigil(
            self.replicas,
            probes,
            lambda replica: SPECS[replica.engine],
            lambda _: STALL_S,
            lambda _: self.permits,
            lambda: self.now_s,
            lambda _, error: self.bugs.append(error),
        )

    @property
    def traffic(self) -> Traffic:
        return self.replicas.traffic

    def give(self, name: str, *attempts: Attempt) -> None:
        for attempt in attempts:
            self.traffic.begin(name, attempt)

    def state(self, name: str) -> State:
        found = self.replicas.fleet.get(name)
        assert found is not None
        return found.state

    async def look(self, seconds: float = LOOK_EVERY_S, *, late_s: float = 0.0) -> None:
        """Looks for so long, as time goes by; what looks have begun comes to its end."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += LOOK_EVERY_S
            self.vigil.look(late_s)
            for _ in range(3):
                await asyncio.sleep(0)


def test_what_stalls_loses_its_requests_and_its_siblings_keep_theirs(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), replica("b"))
        stuck, plain, fine = Attempt(), Attempt(streams=False), Attempt()
        it.give("a", stuck, plain)
        it.give("b", fine)
        for _ in range(20):
            fine.heard_s = it.now_s
            await it.look()

        assert (it.state("a"), it.state("b")) == (State.STALLED, State.READY)
        assert {error.code for error in stuck.errors + plain.errors} == {"engine_stalled"}
        assert stuck.errors[0] is not plain.errors[0]
        assert fine.errors == []
        found = it.replicas.fleet.get("a")
        assert found is not None
        assert found.cause == "no progress for 4.0 s"
        assert found.evidence.startswith("2 requests, no step for 4.0 s")
        assert found.evidence.endswith(", its health is not known")

    play(scene())


def test_what_was_on_its_way_to_one_that_stalled_is_cut_too(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a", State.STALLED))
        late = Attempt()
        it.give("a", late)

        await it.look()

        assert [error.code for error in late.errors] == ["engine_stalled"]

    play(scene())


@pytest.mark.parametrize("state", [State.DRAINING, State.LOADING])
def test_one_that_is_leaving_keeps_its_state_and_loses_what_stands_still(play: Play, state: State) -> None:
    async def scene() -> None:
        it = Scene(replica("a", state))
        stuck = Attempt()
        it.give("a", stuck)

        await it.look(STALL_S + 2.0)

        assert stuck.errors
        assert it.state("a") is state
        assert it.changes == []

    play(scene())


def test_a_client_that_does_not_read_is_no_stall(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        it.give("a", Attempt(waits_for_client=True))

        await it.look(60.0)

        assert it.state("a") is State.READY

    play(scene())


def test_an_answer_that_came_and_went_between_two_looks_counts(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        under_way = Attempt(streams=False)
        it.give("a", under_way)
        for _ in range(60):
            await it.look()
            under_way.heard_s = it.now_s
            ended, under_way = under_way, Attempt(streams=False)
            it.give("a", under_way)
            it.traffic.end("a", ended)

        assert it.state("a") is State.READY

    play(scene())


def test_while_the_gateway_itself_stood_still_nobody_stalled(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        it.give("a", Attempt())
        await it.look(1.0)

        it.now_s += 100.0
        await it.look(late_s=100.0)

        assert it.state("a") is State.READY

    play(scene())


def test_it_comes_back_when_a_canary_is_answered(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a", State.STALLED))
        await it.look(2.0)
        assert (it.state("a"), it.probes.canaries) == (State.STALLED, 1)

        it.probes.answer.set_result((Event.WARMED, "a token came", ""))
        await it.look()

        assert it.changes == [("a", State.STALLED, State.WARMING)]
        assert it.bugs == []

    play(scene())


def test_it_comes_back_when_its_engine_makes_steps_again(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        stuck = Attempt()
        it.give("a", stuck)
        await it.look(STALL_S + 1.0)
        it.traffic.end("a", stuck)
        await it.look()
        assert it.state("a") is State.STALLED

        it.probes.steps += 1
        while it.state("a") is State.STALLED:
            await asyncio.sleep(0.05)

        found = it.replicas.fleet.get("a")
        assert found is not None
        assert found.cause == "its engine makes steps again"

    play(scene())


def test_a_canary_that_failed_is_followed_by_a_rest(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a", State.STALLED))
        it.probes.answer.set_result((Event.CANARY_FAILED, "its canary came to no end", ""))

        await it.look(CANARY_REST_S - 1.0)

        assert (it.state("a"), it.probes.canaries) == (State.STALLED, 1)

    play(scene())


def test_what_stalled_is_asked_with_the_key_that_is_configured_now(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "CANARY_REST_S", 0.0)
    monkeypatch.setattr(stall, "LOOK_EVERY_S", 0.0)

    async def scene() -> None:
        it = Scene(replica("a", State.STALLED))
        it.probes.answer.set_result((Event.CANARY_FAILED, "its canary got 401", ""))
        await it.look()
        asked = it.probes.keys
        assert set(asked) == {""}

        it.replicas.fleet = Fleet((dataclasses.replace(replica("a", State.STALLED), api_key="new"),))
        before = len(asked)
        while len(asked) < before + 10:
            await asyncio.sleep(0)

        assert set(asked[before:]) == {"new"}

    play(scene())


def test_one_that_has_gone_is_asked_for_nothing_more(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a", State.STALLED))
        await it.look()

        it.replicas.fleet = Fleet()
        await it.look()

        assert it.probes.answer.cancelled()
        assert it.bugs == []

    play(scene())


def test_one_whose_permits_are_all_out_for_a_while_is_busy_and_then_ready_again(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), permits=2)
        attempts = [Attempt(heard_s=math.inf), Attempt(heard_s=math.inf)]
        it.give("a", *attempts)
        await it.look(TURN_AFTER_S - LOOK_EVERY_S)
        assert it.state("a") is State.READY
        await it.look(2 * LOOK_EVERY_S)
        assert it.state("a") is State.BUSY

        it.traffic.end("a", attempts.pop())
        await it.look(LOOK_EVERY_S)
        assert it.state("a") is State.BUSY
        await it.look(TURN_AFTER_S)

        assert it.state("a") is State.READY
        assert it.changes == [("a", State.READY, State.BUSY), ("a", State.BUSY, State.READY)]

    play(scene())


def test_a_page_that_can_not_be_asked_for_is_no_stall_of_what_is_not_streamed(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        broken: Any = 7
        it.probes.page = broken
        it.give("a", Attempt(streams=False))

        await it.look(20.0)

        assert it.bugs
        assert it.state("a") is State.READY

    play(scene())


def test_what_nobody_expected_is_told_and_the_others_are_looked_at(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), replica("b"))
        broken: Any = object()
        it.traffic.begin("a", broken)
        stuck = Attempt()
        it.give("b", stuck)

        await it.look(STALL_S + 1.0)

        assert it.bugs
        assert it.state("b") is State.STALLED

    play(scene())
