"""The gateway's own view of the fleet: reads what is registered, asks each replica how it is, warms new ones.

It acts for `policy/fleet`: events go in, the snapshot in `fleet` is replaced. A replica that is not ready is
asked often, so that a start is noticed at once; a ready one is asked now and then, and the traffic itself tells
sooner when nothing listens any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import msgspec

from penstock.core.config import Address
from penstock.core.errors import EngineError, OverloadError
from penstock.engines.client import ConnectRefusedError, EngineClient, Reply
from penstock.engines.spec import EngineSpec
from penstock.policy.fleet import Event, Fleet, Replica, State

LOOK_EVERY_S = 0.1
ASK_UNREADY_EVERY_S = 0.1
ASK_READY_EVERY_S = 2.0
HEALTH_TIMEOUT_S = 2.0
NOT_READY_RETRY_AFTER_S = 2
# How much of an engine's own words is kept as evidence.
EVIDENCE_CHARS_MAX = 200
# The first token may wait for kernels to be compiled.
CANARY_TIMEOUT_S = 120.0

# How engines say that they make no text: embeddings, for one.
_NO_COMPLETIONS = frozenset({400, 404, 405, 501})

# An event, its cause for anybody, and its evidence for whoever runs the replica.
Seen = tuple[Event, str, str]


class Replicas:
    """Keeps `fleet` up to date until it is stopped.

    Args:
        known: all replicas that shall be there now; called again and again, gives the same object until that changes.
        drained: names of those that shall get no more requests.
        specs: the facts of a replica's engine.
        on_change: told of each replica whose state has changed, before and after.
        on_bug: takes an exception that nobody expected, with where it happened; the watch goes on.
    """

    def __init__(
        self,
        known: Callable[[], Sequence[Replica]],
        drained: Callable[[], Collection[str]],
        specs: Callable[[Replica], EngineSpec],
        client: EngineClient,
        on_change: Callable[[Replica, Replica], None],
        on_bug: Callable[[str, BaseException], None],
    ) -> None:
        self.fleet = Fleet()
        self.in_flight: dict[str, int] = {}
        self._known = known
        self._drained = drained
        self._specs = specs
        self._client = client
        self._on_change = on_change
        self._on_bug = on_bug
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

    def take_permit(self, name: str) -> None:
        """Counts one more request at this replica; held until its last byte, or its cancel."""
        self.in_flight[name] = self.in_flight.get(name, 0) + 1

    def return_permit(self, name: str) -> None:
        """Counts one less."""
        self.in_flight[name] -= 1
        if not self.in_flight[name]:
            del self.in_flight[name]

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
        if self._see(name, Event.REFUSED, "nothing answers there", evidence) is State.STARTING:
            self._hurry[name].set()

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
        for replica in known.values():
            if self.fleet.get(replica.name) is None:
                self._add(replica)

    def _follow_drained(self) -> None:
        drained = self._drained()
        for replica in self.fleet.replicas:
            if replica.name in drained and replica.state is State.READY:
                self._see(replica.name, Event.DRAIN, "asked to drain")
            elif replica.name not in drained and replica.state is State.DRAINING:
                self._see(replica.name, Event.UNDRAIN, "asked to serve again")
                self._hurry[replica.name].set()

    def _add(self, replica: Replica) -> None:
        self.fleet = self.fleet.with_replica(replica)
        self._hurry[replica.name] = asyncio.Event()
        self._watches[replica.name] = asyncio.create_task(self._watch(replica))

    def _drop(self, replica: Replica) -> None:
        self._see(replica.name, Event.GONE, "no longer registered")
        self.fleet = self.fleet.without(replica.name)
        self._watches.pop(replica.name).cancel()
        del self._hurry[replica.name]
        self._client.forget(replica.address)

    def _see(self, name: str, event: Event, cause: str, evidence: str = "") -> State:
        before = self.fleet.get(name)
        if before is None:
            return State.STOPPED
        after = before.after(event, cause, asyncio.get_running_loop().time(), evidence)
        self.fleet = self.fleet.with_replica(after)
        if after.state is not before.state:
            self._on_change(before, after)
        return after.state

    async def _watch(self, replica: Replica) -> None:
        pause_s = 0.0
        while True:
            try:
                pause_s = await self._look(replica)
            except Exception as error:
                self._on_bug(replica.name, error)
                pause_s = ASK_READY_EVERY_S
            await self._pause(replica.name, pause_s)

    async def _look(self, replica: Replica) -> float:
        """Asks the replica how it is; returns in how many seconds to ask again."""
        spec = self._specs(replica)
        seen = await self._health(replica, spec)
        state = self._see(replica.name, *seen)
        if state is State.WARMING:
            seen = await self._canary(replica)
            state = self._see(replica.name, *seen)
        if state is State.READY or seen[0] is Event.CANARY_FAILED:
            return ASK_READY_EVERY_S
        return ASK_UNREADY_EVERY_S

    async def _pause(self, name: str, seconds: float) -> None:
        hurry = self._hurry[name]
        hurry.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await hurry.wait()

    async def _health(self, replica: Replica, spec: EngineSpec) -> Seen:
        try:
            reply = await self._client.fetch(
                replica.address,
                b"GET",
                spec.health_path.encode(),
                headers=_key_header(replica),
                timeout_s=HEALTH_TIMEOUT_S,
            )
        except ConnectRefusedError as error:
            return Event.REFUSED, "nothing answers there", error.message
        except (EngineError, OverloadError) as error:  # slow or cut: no proof of anything
            return Event.SLOW, "its health check came to no end", error.message
        if reply.status == 200:
            return Event.HEALTHY, f"{spec.health_path} says 200", ""
        return Event.UNREADY, f"{spec.health_path} says {reply.status}", _text(reply)

    async def _canary(self, replica: Replica) -> Seen:
        body = msgspec.json.encode({"model": replica.model, "prompt": "Hello", "max_tokens": 1})
        headers = [(b"content-type", b"application/json"), *_key_header(replica)]
        try:
            reply = await self._client.fetch(
                replica.address,
                b"POST",
                b"/v1/completions",
                headers=headers,
                body=body,
                timeout_s=CANARY_TIMEOUT_S,
            )
        except ConnectRefusedError as error:
            return Event.REFUSED, "nothing answers there", error.message
        except (EngineError, OverloadError) as error:
            return Event.CANARY_FAILED, "its canary came to no end", error.message
        if reply.status == 200:
            return Event.WARMED, "a token came", ""
        if reply.status in _NO_COMPLETIONS:
            return Event.WARMED, "answers, but completes no prompts", _text(reply)
        return Event.CANARY_FAILED, f"its canary got {reply.status}", _text(reply)


def replica_of(name: str, model: str, engine: str, url: str, api_key: str) -> Replica:
    """A replica that nothing is known of yet; `url` is `http://host:port`."""
    return Replica(name, model, engine, Address.parse(url.removeprefix("http://").rstrip("/")), api_key)


def _text(reply: Reply) -> str:
    return reply.body.decode(errors="replace")[:EVIDENCE_CHARS_MAX]


def _key_header(replica: Replica) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + replica.api_key.encode())] if replica.api_key else []
