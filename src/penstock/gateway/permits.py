"""How many requests each replica may hold: as it is set, or as its engine's own metrics teach.

It acts for `policy/permits`. Asking never harms: a replica that this gateway holds nothing at teaches nothing, and is
asked no more once it is known to have metrics; one that has none is asked now and then; whatever goes wrong leaves
the permits as they were, and so does a page that is the same as before: the engine may stand still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.core.config import ModelConfig
from penstock.core.errors import EngineError, OverloadError
from penstock.engines.client import EngineClient
from penstock.engines.llamacpp_server import SLOTS
from penstock.engines.spec import EngineSpec
from penstock.policy.fleet import SERVING, Fleet, Replica
from penstock.policy.permits import PERMITS_MAX, PERMITS_UNKNOWN, Learned, Sample, learned
from penstock.wire.exposition import STEPS, EngineLoad, Pulse, read_load, read_pulse

ASK_EVERY_S = 2.0
# An engine that did not answer, or answered without the numbers, is asked again after this.
ASK_AFTER_FAILURE_S = 10.0
ASK_WITHOUT_METRICS_S = 60.0
ASK_TIMEOUT_S = 2.0
# Replicas asked at once: reading an answer costs the loop a tenth of a millisecond.
ASKED_AT_ONCE_MAX = 8

# The option that tells how many requests an engine runs at once, and what it is where it is left out. vLLM's own
# default depends on the GPU, so that it is learned.
_BATCH_OPTIONS: Mapping[str, tuple[str, int | None]] = {
    "llamacpp": ("n_parallel", SLOTS),
    "sglang": ("max_running_requests", None),
    "sim": ("max_num_seqs", None),
    "vllm": ("max_num_seqs", None),
}


def known_permits(model: ModelConfig) -> int | None:
    """The permits of each replica of `model` as its engine's options tell them; None where they have to be learned."""
    option, default = _BATCH_OPTIONS.get(model.engine, ("", None))
    value = model.engine_args.get(option, default)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return min(value, PERMITS_MAX)
    return default


@dataclass(slots=True)
class _Lesson:
    """What is known of one replica that is asked."""

    state: Learned
    ask_at_s: float
    pulse: Pulse | None


class Permits:
    """Keeps `by_name` up to date until it is stopped.

    Args:
        fleet: gives the present snapshot.
        in_flight: the permits that this gateway holds, by replica name.
        known: the permits of a model's replicas where they are set or known; None where they are to be learned.
        specs: the facts of a replica's engine.
        clock: monotonic seconds.
        on_bug: takes an exception that nobody expected, with where it happened; asking goes on.
        workers: gateways of this machine, which divide what is set or known. What is learned is this one's own
            part already.
    """

    def __init__(
        self,
        fleet: Callable[[], Fleet],
        in_flight: Mapping[str, int],
        client: EngineClient,
        known: Callable[[str], int | None],
        specs: Callable[[Replica], EngineSpec],
        clock: Callable[[], float],
        on_bug: Callable[[str, BaseException], None],
        *,
        workers: int = 1,
    ) -> None:
        self.by_name: dict[str, int] = {}
        self._fleet = fleet
        self._in_flight = in_flight
        self._client = client
        self._known = known
        self._specs = specs
        self._clock = clock
        self._on_bug = on_bug
        self._workers = workers
        self._lessons: dict[str, _Lesson] = {}

    def concurrency(self, name: str) -> int:
        """How many requests this gateway may have at the replica `name` at once, 1 or more."""
        return self.by_name.get(name) or self._part(PERMITS_UNKNOWN)

    def forget(self, name: str) -> None:
        """The replica `name` is gone or was started anew: what was learned of it holds no more."""
        self.by_name.pop(name, None)
        self._lessons.pop(name, None)

    def meet(self, replica: Replica) -> bool:
        """Takes what is set or known of a replica, to be called before it gets requests; whether anything is."""
        known = self._known(replica.model)
        if known is not None:
            self.by_name[replica.name] = self._part(known)
        return known is not None

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            try:
                await self.ask()
            except Exception as error:
                self._on_bug("permits", error)
            await asyncio.sleep(ASK_EVERY_S)

    async def ask(self) -> None:
        """Asks each replica once that can teach something now."""
        replicas = self._fleet().replicas
        gone = (self.by_name.keys() | self._lessons.keys()) - {replica.name for replica in replicas}
        for name in gone:
            self.forget(name)
        gate = asyncio.Semaphore(ASKED_AT_ONCE_MAX)
        async with asyncio.TaskGroup() as group:
            for replica in replicas:
                if self._teaches(replica):
                    group.create_task(self._look(replica, gate))

    def _teaches(self, replica: Replica) -> bool:
        if self.meet(replica):
            return False
        if replica.state not in SERVING:
            return False
        lesson = self._lessons.get(replica.name)
        if lesson is None:
            return True
        return bool(self._in_flight.get(replica.name)) and self._clock() >= lesson.ask_at_s

    async def _look(self, replica: Replica, gate: asyncio.Semaphore) -> None:
        async with gate:
            load, pulse, pause_s = await self._load_of(replica)
        if self._fleet().get(replica.name) is None:
            return  # gone while it was asked
        now_s = self._clock()
        lesson = self._lessons.get(replica.name)
        state = lesson.state if lesson else Learned()
        stands = pulse is not None and lesson is not None and pulse == lesson.pulse
        if load is not None and not stands:
            held = self._in_flight.get(replica.name, 0)
            state = learned(state, Sample(load.running, load.waiting, load.kv_usage, held), now_s)
            self.by_name[replica.name] = state.permits
        self._lessons[replica.name] = _Lesson(state, now_s + pause_s, pulse)

    async def _load_of(self, replica: Replica) -> tuple[EngineLoad | None, Pulse | None, float]:
        """Its load and its pulse, where it tells; and in how many seconds at the soonest to ask again."""
        spec = self._specs(replica)
        key = [(b"authorization", b"Bearer " + replica.api_key.encode())] if replica.api_key else []
        try:
            reply = await self._client.fetch(
                replica.address, b"GET", spec.metrics_path.encode(), headers=key, timeout_s=ASK_TIMEOUT_S
            )
        except (EngineError, OverloadError):
            return None, None, ASK_AFTER_FAILURE_S
        load = read_load(reply.body, spec.load) if reply.status == 200 else None
        if load is None:
            return None, None, ASK_WITHOUT_METRICS_S
        return load, read_pulse(reply.body, spec.steps or STEPS), 0.0

    def _part(self, permits: int) -> int:
        return -(-permits // self._workers)
