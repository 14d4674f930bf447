"""The gateway's own view of the fleet: reads what is registered, asks each replica how it is, warms new ones.

It acts for `policy/fleet`: events go in, the snapshot in `fleet` is replaced. A replica that is not ready is
asked often, so that a start is noticed at once; a ready one is asked now and then, and the traffic itself tells
sooner when nothing listens any more. Whether one that has requests makes progress is for `vigil` to see.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from penstock.core.config import Address
from penstock.core.errors import OverloadError
from penstock.engines.client import EngineClient
from penstock.engines.spec import EngineSpec
from penstock.gateway.probes import Probes, Seen
from penstock.gateway.traffic import Traffic
from penstock.policy.fleet import SERVING, Event, Fleet, Replica, State

LOOK_EVERY_S = 0.1
ASK_UNREADY_EVERY_S = 0.1
ASK_READY_EVERY_S = 2.0
NOT_READY_RETRY_AFTER_S = 2
# The first token may wait for kernels to be compiled.
CANARY_TIMEOUT_S = 120.0

_UP = SERVING | {State.STALLED, State.DRAINING}
_DRAINABLE = SERVING | {State.STALLED, State.WARMING}
_COMING_UP = frozenset({State.STARTING, State.LOADING})


class Replicas:
    """Keeps `fleet` up to date until it is stopped.

    Args:
        known: all replicas that shall be there now; called again and again, gives the same object until that changes.
        drained: names of those that shall get no more requests.
        specs: the facts of a replica's engine.
        on_change: told of each replica whose state has changed, before and after.
        on_bug: takes an exception that nobody expected, with where it happened; the watch goes on.
        loading: how far the start of a replica has come, in words; empty where nobody knows.
    """

    def __init__(
        self,
        known: Callable[[], Sequence[Replica]],
        drained: Callable[[], Collection[str]],
        specs: Callable[[Replica], EngineSpec],
        client: EngineClient,
        on_change: Callable[[Replica, Replica], None],
        on_bug: Callable[[str, BaseException], None],
        loading: Callable[[str], str],
    ) -> None:
        self.fleet = Fleet()
        self.traffic = Traffic()
        self.in_flight = self.traffic.in_flight
        self._known = known
        self._drained = drained
        self._specs = specs
        self._client = client
        self._on_change = on_change
        self._on_bug = on_bug
        self._loading = loading
        self._probes = Probes(client)
        self._health: dict[str, Seen] = {}
        self._reconciled: Sequence[Replica] | None = None
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._hurry: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        """Watches until cancelled."""
        try:
            while True:
                try:
                    self._reconcile()
                    self._follow_drained()
                except Exception as error:
                    self._on_bug("replicas", error)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for task in self._watches.values():
                task.cancel()

    def not_ready(self, model: str) -> OverloadError:
        """What a request for `model` is told while no replica of it is ready."""
        return OverloadError(
            f"model {model!r} is not ready: {self.fleet.unready_reason(model)}",
            code="no_replica_ready",
            hint="try again shortly; `penstock status` shows the replicas",
            retry_after_s=NOT_READY_RETRY_AFTER_S,
        )

    def refused(self, name: str, evidence: str) -> None:
        """An attempt found that nothing listens at this replica's address."""
        if self.see(name, Event.REFUSED, "nothing answers there", evidence) is State.STARTING:
            self.hurry(name)

    def resumed(self, name: str, cause: str) -> None:
        """A replica that stalled has given a sign of life."""
        if self.see(name, Event.RESUMED, cause) is State.WARMING:
            self.hurry(name)

    def hurry(self, name: str) -> None:
        """Has the replica asked how it is as soon as may be."""
        if name in self._hurry:
            self._hurry[name].set()

    def see(self, name: str, event: Event, cause: str, evidence: str = "") -> State:
        """Takes what was seen of a replica; returns the state that it is in after it."""
        before = self.fleet.get(name)
        if before is None:
            return State.STOPPED
        after = before.after(event, cause, asyncio.get_running_loop().time(), evidence)
        if after is not before:
            self.fleet = self.fleet.with_replica(after)
        if after.state is not before.state:
            self._on_change(before, after)
        return after.state

    def health(self, name: str) -> str:
        """What the replica's health check said last."""
        return self._health[name][1] if name in self._health else "its health is not known"

    def _reconcile(self) -> None:
        replicas = self._known()
        if replicas is self._reconciled:
            return
        self._reconciled = replicas
        known = {replica.name: replica for replica in replicas}
        for replica in self.fleet.replicas:
            successor = known.get(replica.name)
            if successor is None or successor.address != replica.address:
                self._drop(replica)
            elif successor.api_key != replica.api_key:
                self.fleet = self.fleet.with_replica(dataclasses.replace(replica, api_key=successor.api_key))
        for replica in known.values():
            if self.fleet.get(replica.name) is None:
                self._add(replica)

    def _follow_drained(self) -> None:
        drained = self._drained()
        for replica in self.fleet.replicas:
            if replica.name in drained and replica.state in _DRAINABLE:
                self.see(replica.name, Event.DRAIN, "asked to drain")
            elif replica.name not in drained and replica.state is State.DRAINING:
                self.see(replica.name, Event.UNDRAIN, "asked to serve again")
                self.hurry(replica.name)

    def _add(self, replica: Replica) -> None:
        self.fleet = self.fleet.with_replica(replica)
        self.see(replica.name, Event.REGISTERED, "not asked yet", f"shall be at {replica.address}")
        self._hurry[replica.name] = asyncio.Event()
        self._watches[replica.name] = asyncio.create_task(self._watch(replica.name))

    def _drop(self, replica: Replica) -> None:
        self.see(replica.name, Event.GONE, "no longer registered")
        self.fleet = self.fleet.without(replica.name)
        self._watches.pop(replica.name).cancel()
        del self._hurry[replica.name]
        self._health.pop(replica.name, None)
        self.traffic.forget(replica.name)
        self._client.forget(replica.address)

    async def _watch(self, name: str) -> None:
        pause_s = 0.0
        while (replica := self.fleet.get(name)) is not None:
            try:
                pause_s = await self._look(replica)
            except Exception as error:
                self._on_bug(name, error)
                pause_s = ASK_READY_EVERY_S
            await self._pause(name, pause_s)

    async def _look(self, replica: Replica) -> float:
        """Asks the replica how it is; returns in how many seconds to ask again."""
        event, cause, evidence = await self._probes.health(replica, self._specs(replica))
        self._health[replica.name] = event, cause, evidence
        if event is not Event.HEALTHY and self._state(replica.name) in _COMING_UP:
            cause = self._loading(replica.name) or cause
        state = self.see(replica.name, event, cause, evidence)
        if state is State.WARMING:
            event, cause, evidence = await self._probes.canary(replica, CANARY_TIMEOUT_S)
            state = self.see(replica.name, event, cause, evidence)
        return ASK_READY_EVERY_S if state in _UP or event is Event.CANARY_FAILED else ASK_UNREADY_EVERY_S

    def _state(self, name: str) -> State:
        replica = self.fleet.get(name)
        return State.STOPPED if replica is None else replica.state

    async def _pause(self, name: str, seconds: float) -> None:
        hurry = self._hurry[name]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await hurry.wait()
        hurry.clear()


def replica_of(name: str, model: str, engine: str, url: str, api_key: str) -> Replica:
    """A replica that nothing is known of yet; `url` is `http://host:port`."""
    return Replica(name, model, engine, Address.parse(url.removeprefix("http://").rstrip("/")), api_key)
