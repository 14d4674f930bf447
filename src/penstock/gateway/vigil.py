"""Looks twice a second at what each replica has to do: whether it moves, whether it is full; and at one that stalled,
whether it has come back to life.

It acts for `policy/stall`. What stalled loses its requests, which go on elsewhere, and gets no more until its engine
makes steps again, or has answered a canary: one at a time, with a limit and a rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from penstock.core.config import Address
from penstock.engines.spec import EngineSpec
from penstock.gateway.probes import Probes
from penstock.gateway.replicas import Replicas
from penstock.gateway.traffic import ReplicaStalledError
from penstock.policy import stall
from penstock.policy.fleet import SERVING, Event, Replica, State
from penstock.policy.stall import Progress

LOOK_EVERY_S = 0.5
# A look that is so much too late tells that this process itself stood still.
LATE_S = 0.25
# All permits out, or not, for so long: a moment of either is no news.
TURN_AFTER_S = 2.0
# A canary at a replica that stalled: one in so many seconds at most, and for so long.
CANARY_WITHIN_S = 30.0
CANARY_REST_S = 5.0
# What can't be asked for a token, and counts no steps, is tried again after this.
MUTE_REST_S = 30.0


@dataclass(slots=True)
class _Watched:
    """What is known of one replica.

    Args:
        turned_s: when it was last as full, or as free, as its state says.
        look: at its page, under way or over.
        revival: waits for signs of life, where it stalled.
    """

    address: Address
    progress: Progress
    turned_s: float
    look: asyncio.Task[None] | None = None
    revival: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """Looks no more."""
        for task in (self.look, self.revival):
            if task is not None:
                task.cancel()


class Vigil:
    """Watches until it is stopped.

    Args:
        specs: the facts of a replica's engine.
        stall_s: for how long a replica of this model may make no progress; None leaves it to its engine.
        permits: how many requests a replica may hold, by its name.
        clock: monotonic seconds.
        on_bug: takes an exception that nobody expected, with where it happened; the watch goes on.
    """

    def __init__(
        self,
        replicas: Replicas,
        probes: Probes,
        specs: Callable[[Replica], EngineSpec],
        stall_s: Callable[[str], float | None],
        permits: Callable[[str], int],
        clock: Callable[[], float],
        on_bug: Callable[[str, BaseException], None],
    ) -> None:
        self._replicas = replicas
        self._probes = probes
        self._specs = specs
        self._stall_s = stall_s
        self._permits = permits
        self._clock = clock
        self._on_bug = on_bug
        self._watched: dict[str, _Watched] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        looked_s = self._clock()
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                now_s = self._clock()
                late_s = now_s - looked_s - LOOK_EVERY_S
                looked_s = now_s
                self.look(late_s if late_s >= LATE_S else 0.0)
        finally:
            for watched in self._watched.values():
                watched.leave()

    def look(self, late_s: float = 0.0) -> None:
        """Looks once at each replica.

        Args:
            late_s: for how long this process stood still since the last look.
        """
        replicas = self._replicas.fleet.replicas
        for name in self._watched.keys() - {replica.name for replica in replicas}:
            self._watched.pop(name).leave()
        for replica in replicas:
            try:
                self._look_at(replica, late_s)
            except Exception as error:
                self._on_bug(replica.name, error)

    def _look_at(self, replica: Replica, late_s: float) -> None:
        now_s = self._clock()
        watched = self._watched.get(replica.name)
        if watched is None or watched.address != replica.address:
            if watched is not None:
                watched.leave()
            watched = _Watched(replica.address, Progress(now_s), now_s)
            self._watched[replica.name] = watched
        work = self._replicas.traffic.work(replica.name)
        watched.progress = stall.noted(watched.progress, work, now_s, late_s)
        if replica.state is State.STALLED:
            self._cut(replica)  # what was on its way there
            if watched.revival is None:
                watched.revival = asyncio.create_task(self._revive(replica, watched))
            return
        if watched.revival is not None:
            watched.revival.cancel()
            watched.revival = None
        if replica.state in SERVING:
            self._fullness(replica, watched, now_s)
        limit_s = stall.limit_s(watched.progress, self._stall_s(replica.model))
        if stall.is_stalled(watched.progress, limit_s, now_s):
            self._stalled(replica, watched, now_s)
        elif stall.wants_look(watched.progress, now_s):
            watched.progress = stall.asked(watched.progress, now_s)
            watched.look = asyncio.create_task(self._ask(replica, watched, limit_s))

    def _fullness(self, replica: Replica, watched: _Watched, now_s: float) -> None:
        held, permits = self._replicas.in_flight.get(replica.name, 0), self._permits(replica.name)
        full = held >= permits
        if full == (replica.state is State.BUSY):
            watched.turned_s = now_s
        elif now_s - watched.turned_s >= TURN_AFTER_S:
            watched.turned_s = now_s
            event, cause = (Event.FULL, "all its permits are out") if full else (Event.ROOM, "has room again")
            self._replicas.see(replica.name, event, cause, f"{held} of {permits} permits are out")

    def _stalled(self, replica: Replica, watched: _Watched, now_s: float) -> None:
        progress = watched.progress
        silent_s = now_s - progress.moved_s
        evidence = f"{stall.evidence(progress, now_s)}, {self._replicas.health(replica.name)}"
        cause = f"no progress for {silent_s:.1f} s"
        self._replicas.see(replica.name, Event.STALL, cause, evidence)
        self._cut(replica, cause)

    def _cut(self, replica: Replica, cause: str = "no progress") -> None:
        def error() -> ReplicaStalledError:
            return ReplicaStalledError(
                f"{replica.name} stalled: {cause}",
                hint="try again; `penstock status` shows what was seen of the replica",
            )

        self._replicas.traffic.cut(replica.name, error)

    async def _ask(self, replica: Replica, watched: _Watched, within_s: float) -> None:
        pulse, trouble = None, "/metrics could not be asked for"
        try:
            pulse, trouble = await self._probes.pulse(replica, self._specs(replica), within_s)
        except Exception as error:
            self._on_bug(replica.name, error)
        watched.progress = stall.answered(watched.progress, pulse, trouble, self._clock())

    async def _revive(self, replica: Replica, watched: _Watched) -> None:
        """Waits for a sign of life, and tells of it."""
        signs = [
            asyncio.create_task(sign(replica, watched)) for sign in (self._steps_again, self._gives_a_token)
        ]
        try:
            done, _ = await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
            self._replicas.resumed(replica.name, done.pop().result())
        except Exception as error:
            self._on_bug(replica.name, error)
            watched.revival = None  # at the next look another
        finally:
            for task in signs:
                task.cancel()

    def _known_now(self, replica: Replica) -> Replica:
        """The same one with what is known of it now: a reload may have changed its key."""
        return self._replicas.fleet.get(replica.name) or replica

    async def _steps_again(self, replica: Replica, watched: _Watched) -> str:
        before = watched.progress.pulse
        while True:
            await asyncio.sleep(stall.LOOK_EVERY_S)
            within_s = stall.LONG_STEPS_S
            replica = self._known_now(replica)
            pulse, _ = await self._probes.pulse(replica, self._specs(replica), within_s)
            if pulse is not None and before is not None and pulse != before:
                return "its engine makes steps again"

    async def _gives_a_token(self, replica: Replica, watched: _Watched) -> str:
        while True:
            event, cause, _ = await self._probes.canary(self._known_now(replica), CANARY_WITHIN_S)
            if event is Event.WARMED:
                return cause
            if event is Event.MUTE and watched.progress.pulse is None:
                await asyncio.sleep(MUTE_REST_S)
                return "it can't be asked for a token, and is tried again"
            await asyncio.sleep(CANARY_REST_S)
