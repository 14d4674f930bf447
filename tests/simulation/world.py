"""What is around the requests: the passing of time, the fleet and its breakers, and changes of the configuration."""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from penstock.core.config import Address
from penstock.policy import budget
from penstock.policy.admit import Admission, capacity_of
from penstock.policy.breaker import CLEAN, Breaker, Trust
from penstock.policy.fleet import Event, Fleet, Replica, State
from tests.simulation.engines import Engine, Mode
from tests.simulation.scenario import Scenario, Trouble
from tests.simulation.watch import Watch

MODEL = "m"
LOOK_EVERY_S = 0.3
CANARY_S = 0.1


class World(ABC):
    """One model, its replicas and its permits, in virtual time."""

    def __init__(self, scenario: Scenario, admission: Admission) -> None:
        self.scenario = scenario
        self.rng = random.Random(scenario.seed ^ 0x5EED)
        self.now_s = 0.0
        self.tenants = list(scenario.tenants)
        self.accounts = {tenant.name: budget.Account() for tenant in self.tenants}
        self.admission = admission
        self.admission.queue_len_max, self.admission.sheds = scenario.queue_len_max, scenario.sheds
        self.breakers: dict[str, Breaker] = {}
        self.engines: dict[str, Engine] = {}
        self.fleet = Fleet()
        self.ready: tuple[Replica, ...] = ()
        self.concurrency: dict[str, int] = {}
        self.in_flight: dict[str, int] = {}
        self.watch = Watch(self)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0
        for concurrency in scenario.concurrency:
            self._add_engine(concurrency)

    @abstractmethod
    def _admit(self) -> None:
        """Gives out the permits that are free."""

    def _happen(self) -> None:
        """All that is planned, and what comes of it."""
        while self._events:
            self.now_s, _, act, args = heapq.heappop(self._events)
            self.watch.before(act.__name__, args)
            act(*args)
            self.watch.after()

    def _at(self, at_s: float, act: Callable[..., None], *args: Any) -> None:
        self._planned += 1
        heapq.heappush(self._events, (at_s, self._planned, act, args))

    def _set_breaker(self, name: str, breaker: Breaker) -> None:
        before = self.breakers.get(name, CLEAN)
        self.breakers[name] = breaker
        if breaker.state is not before.state or breaker.until_s != before.until_s:
            if breaker.state is Trust.OPEN:
                self._at(breaker.until_s, self._refit)
            self._refit()

    def _add_engine(self, concurrency: int) -> None:
        name = f"r{len(self.engines)}"
        self.engines[name] = Engine(name, concurrency)
        self.concurrency[name] = concurrency
        replica = Replica(name, MODEL, "sim", Address("127.0.0.1", 1), "", since_s=self.now_s)
        self.fleet = self.fleet.with_replica(replica.after(Event.REGISTERED, "simulated", self.now_s))
        self._at(self.now_s, self._look, name)

    def _look(self, name: str) -> None:
        """Asks a replica how it is, again and again until it is ready."""
        replica = self.fleet.get(name)
        if replica is None or replica.state in (State.READY, State.DRAINING, State.STOPPED):
            return
        mode = self.engines[name].mode
        if replica.state is State.WARMING:
            answers = mode in (Mode.SOUND, Mode.SLOW, Mode.FLAKY)
            self._seen(name, Event.WARMED if answers else Event.CANARY_FAILED)
        elif mode is Mode.DEAD:
            self._seen(name, Event.REFUSED)
        else:
            self.watch.answered(name)
            self._seen(name, Event.HEALTHY)
        self._at(self.now_s + (CANARY_S if mode is Mode.SOUND else LOOK_EVERY_S), self._look, name)

    def _seen(self, name: str, event: Event) -> None:
        replica = self.fleet.get(name)
        if replica is None:
            return
        after = replica.after(event, "simulated", self.now_s)
        if after.state is not replica.state:
            self.fleet = self.fleet.with_replica(after)
            if replica.state is State.READY and after.state is not State.DRAINING:
                self._at(self.now_s + LOOK_EVERY_S, self._look, name)
            self._refit()

    def _refit(self) -> None:
        """Makes the permits fit the fleet and its breakers."""
        self.ready = self.fleet.ready(MODEL)
        self.admission.capacity = capacity_of(self.ready, self.breakers, self.concurrency, self.now_s)
        self._admit()

    def _some_replica(self, trouble: Trouble) -> Replica | None:
        replicas = self.fleet.replicas
        return replicas[trouble.which % len(replicas)] if replicas else None

    def _change_concurrency(self, trouble: Trouble) -> None:
        if (replica := self._some_replica(trouble)) is not None:
            self.concurrency[replica.name] = 1 + int(trouble.amount * 6)
            self._refit()

    def _change_drain(self, trouble: Trouble) -> None:
        if (replica := self._some_replica(trouble)) is not None:
            self._seen(replica.name, Event.DRAIN)
            self._at(self.now_s + trouble.duration_s, self._change_undrain, trouble)

    def _change_undrain(self, trouble: Trouble) -> None:
        if (replica := self._some_replica(trouble)) is not None:
            self._seen(replica.name, Event.UNDRAIN)
            self._at(self.now_s, self._look, replica.name)

    def _change_remove(self, trouble: Trouble) -> None:
        if (replica := self._some_replica(trouble)) is not None:
            self.fleet = self.fleet.without(replica.name)
            self.breakers.pop(replica.name, None)
            self._refit()

    def _change_add(self, trouble: Trouble) -> None:
        self._add_engine(1 + int(trouble.amount * 4))

    def _change_queue(self, trouble: Trouble) -> None:
        self.admission.queue_len_max = int(trouble.amount * 30)

    def _change_limits(self, trouble: Trouble) -> None:
        tenant = self.tenants[trouble.which % len(self.tenants)]
        self.watch.limits_changed(tenant.name)
        tenant.limits = budget.Limits(
            requests_per_minute=1 + int(trouble.amount * 60), parallel_requests=1 + int(trouble.amount * 4)
        )

    def _change_weight(self, trouble: Trouble) -> None:
        tenant = self.tenants[trouble.which % len(self.tenants)]
        self.watch.weight_changed(tenant.name)
        tenant.weight = 0.5 + 4.0 * trouble.amount
