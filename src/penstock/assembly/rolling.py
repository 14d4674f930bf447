"""Replicas that take the place of others: the new ones first, then the old ones leave; or one after another in place.

A new replica serves once every worker of the gateway has had a token from it. An old one leaves when no worker gives
it requests any more and its last answer is whole. Whoever is interrupted amid it leaves no fewer replicas than there
were: a replica that is not ready yet is stopped, one that leaves already goes on leaving.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from penstock.assembly.admin import GatewayAdmin, SeenFleet
from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.core.units import format_duration
from penstock.store.home import Home
from penstock.store.runtime import Drained, PartReports
from penstock.supervisor.control import Tell
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import Supervisor

LOOK_EVERY_S = 0.2
CHANGE_SAID_EVERY_S = 5.0
STILL_SAID_EVERY_S = 10.0
# Seen idle this often in a row: one that was about to become ready may be given requests until the gateway knows.
IDLE_LOOKS = 2
DRAIN_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Way:
    """How replicas take the place of others.

    Args:
        at_once: new ones beside all old ones; 0 for in place, where an old one is stopped before.
        ready_within_s: how long a new one may take to become ready.
        requests_within_s: by when every request has ended that an old one has.
    """

    at_once: int
    ready_within_s: float
    requests_within_s: float


class Rolling:
    """Replaces replicas under load.

    Args:
        make: the keepers of a model's replicas with these numbers.
        clock: monotonic seconds.
        look_every_s: between two looks at the gateway's view.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        gateway: GatewayAdmin,
        make: Callable[[ModelConfig, Iterable[int]], Iterator[Keeper]],
        home: Home,
        clock: Callable[[], float],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._supervisor = supervisor
        self._gateway = gateway
        self._make = make
        self._home = home
        self._drained = Drained(home.drained)
        self._reports = PartReports(home.parts)
        self._clock = clock
        self._look_every_s = look_every_s

    def start(
        self, model: ModelConfig, count: int, avoid: Collection[str] = frozenset()
    ) -> tuple[Keeper, ...]:
        """Starts more replicas of a model, with the first numbers that are free and make no name to avoid."""
        taken = self._supervisor.names.union(avoid)
        free = (n for n in itertools.count() if f"{model.name}-{n}" not in taken)
        fresh = tuple(self._make(model, itertools.islice(free, count)))
        self._supervisor.set_keepers(model.name, (*self._supervisor.keepers(model.name), *fresh))
        return fresh

    async def replace(
        self,
        old: Sequence[Keeper],
        model: ModelConfig,
        count: int,
        way: Way,
        tell: Tell,
        others: Collection[str] = (),
    ) -> None:
        """Starts `count` replicas of `model`, and stops `old` ones of it.

        Args:
            others: names of replicas of it that somebody else runs.

        Raises:
            PenstockError: a new one did not become ready; those that took an old one's place before go on.
        """
        if not way.at_once:
            await self._in_place(old, model, count, way, tell, others)
            return
        leaving, avoid = list(old), {*others, *(keeper.part.name for keeper in old)}
        while count:
            batch = min(way.at_once, count)
            fresh = self.start(model, batch, avoid)
            try:
                await self._until_ready(fresh, way.ready_within_s, tell)
            except BaseException:
                await self.whole(self.discard(model.name, fresh))
                raise
            count -= batch
            gone, leaving = leaving[:batch], leaving[batch:]
            await self.leave(model.name, gone, way.requests_within_s, tell)
        await self.leave(model.name, leaving, way.requests_within_s, tell)

    async def until_served(self, model: str, besides: Collection[str], within_s: float, tell: Tell) -> None:
        """Waits until others than these replicas serve the model, or for so long."""
        end_s = self._clock() + within_s
        while self._clock() < end_s:
            fleet, _ = await self._seen()
            others = [n for n, one in fleet.replicas.items() if one.model == model and n not in besides]
            if any(map(fleet.is_ready, others)):
                return
            await asyncio.sleep(self._look_every_s)
        tell(model, f"no other replica serves it after {format_duration(within_s)}")

    async def leave(
        self, model: str, keepers: Sequence[Keeper], requests_within_s: float, tell: Tell
    ) -> None:
        """Drains replicas and stops them; goes on to the end where it is cancelled amid it.

        Raises:
            PenstockError: the gateway can't be told; they serve on.
        """
        if not keepers:
            return
        try:
            for keeper in keepers:
                self._drained.set(keeper.part.name, drained=True)
        except OSError as error:
            raise PenstockError(
                f"{self._home.drained} can't be written: {error}", code="home_unusable"
            ) from error
        self._keep(model, without=keepers)
        end_s = self._clock() + requests_within_s + DRAIN_MARGIN_S
        progress = _Progress(tell, self._clock)
        await self.whole(_all(self._leave(keeper, end_s, progress) for keeper in keepers))

    async def _in_place(
        self,
        old: Sequence[Keeper],
        model: ModelConfig,
        count: int,
        way: Way,
        tell: Tell,
        others: Collection[str],
    ) -> None:
        for index in range(max(len(old), count)):
            fresh: tuple[Keeper, ...] = ()
            try:
                await self.leave(model.name, old[index : index + 1], way.requests_within_s, tell)
            except asyncio.CancelledError:
                if index < count and not self._supervisor.stopping:  # what was stopped is started again
                    self.start(model, 1, others)
                raise
            if index < count:
                fresh = self.start(model, 1, others)
            await self._until_ready(fresh, way.ready_within_s, tell)

    def _keep(self, model: str, *, without: Sequence[Keeper]) -> None:
        kept = [keeper for keeper in self._supervisor.keepers(model) if keeper not in without]
        self._supervisor.set_keepers(model, kept)

    async def discard(self, model: str, keepers: Sequence[Keeper]) -> None:
        """Stops replicas that never served."""
        self._keep(model, without=keepers)
        for keeper in keepers:
            keeper.kill()  # it has nothing to finish, and may hang
        await _all(self._supervisor.retire(keeper) for keeper in keepers)

    async def whole(self, work: Coroutine[None, None, None]) -> None:
        """Does `work` to its end also where this is cancelled, unless everything is about to be stopped."""
        if self._supervisor.stopping:
            work.close()
            return
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._supervisor.stopping:
                task.cancel()
            else:
                await asyncio.wait({task})
            raise

    async def _until_ready(self, fresh: Sequence[Keeper], within_s: float, tell: Tell) -> None:
        waiting = {keeper.part.name: keeper for keeper in fresh}
        progress = _Progress(tell, self._clock)
        end_s = self._clock() + within_s
        while True:
            fleet, trouble = await self._seen()
            for name, keeper in [*waiting.items()]:
                if fleet.is_ready(name):
                    del waiting[name]
                    progress.tell(name, "ready", of_the_kind="at all workers")
                    continue
                how, kind = self._how(name, fleet)
                progress.tell(name, trouble or how, of_the_kind=trouble or kind)
                if keeper.given_up or self._clock() > end_s:
                    log = self._home.log(name)
                    late = f"{name} was not ready after {format_duration(within_s)}: {how} (log: {log})"
                    raise PenstockError(keeper.given_up or late, code="replica_not_ready")
            if not waiting:
                return
            await asyncio.sleep(self._look_every_s)

    def _how(self, name: str, fleet: SeenFleet) -> tuple[str, str]:
        """How far a start has come, in words; and in fewer, which do not change all the time."""
        report = next((one for one in self._reports.all() if one.name == name), None)
        if report is not None and (report.why or report.loading):
            return report.why or report.loading, report.why or report.loading.partition(";")[0]
        seen = fleet.replicas.get(name)
        if seen is not None and seen.ready_at:
            return f"ready at {seen.ready_at} of {fleet.workers} workers", "almost ready"
        return (f"{seen.state}: {seen.cause}", seen.state) if seen else ("starting", "starting")

    async def _leave(self, keeper: Keeper, end_s: float, progress: _Progress) -> None:
        name = keeper.part.name
        idle = 0
        while idle < IDLE_LOOKS:
            fleet, trouble = await self._seen()
            idle = idle + 1 if fleet.is_idle(name) and not trouble else 0
            seen = fleet.replicas.get(name)
            left = _requests(seen.in_flight if seen else 0)
            progress.tell(name, trouble or f"draining, {left} left", of_the_kind=trouble or "draining")
            if self._clock() > end_s:
                progress.tell(name, f"stopped with {left}, which should have ended by now")
                break
            await asyncio.sleep(self._look_every_s)
        await self._supervisor.retire(keeper)
        with suppress(OSError):  # who gets this name takes it out
            self._drained.set(name, drained=False)
        progress.tell(name, "stopped")

    async def _seen(self) -> tuple[SeenFleet, str]:
        """The gateway's view, or an empty one and why there is none."""
        try:
            return await self._gateway.fleet(), ""
        except PenstockError as error:
            return SeenFleet(1, {}), error.message


class _Progress:
    """Tells of replicas when something has changed, at once where it is of another kind, and now and then anyway."""

    def __init__(self, tell: Tell, clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self._told: dict[str, tuple[str, str, float]] = {}

    def tell(self, name: str, how: str, *, of_the_kind: str = "") -> None:
        kind = of_the_kind or how
        kind_before, before, at_s = self._told.get(name, ("", "", 0.0))
        now_s = self._clock()
        wait_s = 0.0 if kind != kind_before else CHANGE_SAID_EVERY_S if how != before else STILL_SAID_EVERY_S
        if now_s - at_s >= wait_s:
            self._told[name] = (kind, how, now_s)
            self._tell(name, how)


async def _all(work: Iterable[Coroutine[None, None, None]]) -> None:
    await asyncio.gather(*work)


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
