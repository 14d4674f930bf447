"""The fleet: all replicas and what is known of each, as one immutable snapshot; and how a state moves.

The table below is the whole state machine. A pair of state and event that it does not list changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from penstock.core.config import Address


class State(StrEnum):
    """Where a replica is in its life. Only a READY one is given requests."""

    STARTING = "starting"  # its process may run; nothing answers yet
    LOADING = "loading"  # it answers, and says that it is not ready
    WARMING = "warming"  # it says that it is ready; a one-token canary must prove it
    READY = "ready"
    DRAINING = "draining"  # finishes what it has
    STOPPED = "stopped"


class Event(StrEnum):
    """What was seen of a replica."""

    REFUSED = "refused"  # no connection: nothing listens
    SLOW = "slow"  # the health check was cut or came to no end: no proof of anything
    UNREADY = "unready"  # the health check was answered, but not with 200
    HEALTHY = "healthy"  # the health check was answered with 200
    WARMED = "warmed"  # the canary's token came
    CANARY_FAILED = "canary_failed"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    GONE = "gone"  # no longer registered, or its process ended


_NEXT: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.UNREADY): State.LOADING,
    (State.STARTING, Event.HEALTHY): State.WARMING,
    (State.LOADING, Event.HEALTHY): State.WARMING,
    (State.LOADING, Event.REFUSED): State.STARTING,
    (State.WARMING, Event.WARMED): State.READY,
    (State.WARMING, Event.UNREADY): State.LOADING,
    (State.WARMING, Event.REFUSED): State.STARTING,
    (State.READY, Event.REFUSED): State.STARTING,
    (State.READY, Event.UNREADY): State.LOADING,
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.DRAINING, Event.UNDRAIN): State.WARMING,
    (State.DRAINING, Event.REFUSED): State.STARTING,
    **{(state, Event.GONE): State.STOPPED for state in State},
}


@dataclass(frozen=True, slots=True)
class Replica:
    """One running engine with one address, and what is known of it.

    Args:
        cause: why it is in its state, one short phrase that may be told to anybody.
        evidence: what was seen, in full, for whoever runs it.
        since_s: when it came into its state, on the monotonic clock.
    """

    name: str
    model: str
    engine: str
    address: Address
    api_key: str = field(repr=False)
    state: State = State.STARTING
    cause: str = "not asked yet"
    evidence: str = ""
    since_s: float = 0.0

    def after(self, event: Event, cause: str, now_s: float, evidence: str = "") -> Replica:
        """This replica once `event` was seen."""
        state = _NEXT.get((self.state, event), self.state)
        if state is self.state:
            settled = self.state in (State.READY, State.DRAINING)
            return self if settled else replace(self, cause=cause, evidence=evidence)
        return replace(self, state=state, cause=cause, evidence=evidence, since_s=now_s)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All replicas, in the order in which they became known."""

    replicas: tuple[Replica, ...] = ()
    _ready: Mapping[str, tuple[Replica, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ready: dict[str, tuple[Replica, ...]] = {}  # asked for several times by each request
        for replica in self.replicas:
            if replica.state is State.READY:
                ready[replica.model] = (*ready.get(replica.model, ()), replica)
        object.__setattr__(self, "_ready", ready)

    def get(self, name: str) -> Replica | None:
        """The replica of this name."""
        return next((replica for replica in self.replicas if replica.name == name), None)

    def of_model(self, model: str) -> tuple[Replica, ...]:
        """The replicas that serve `model`."""
        return tuple(replica for replica in self.replicas if replica.model == model)

    def ready(self, model: str) -> tuple[Replica, ...]:
        """The replicas that may be given requests for `model`."""
        return self._ready.get(model, ())

    def with_replica(self, replica: Replica) -> Fleet:
        """The fleet with `replica` put in, in the place of the one of its name if there is one."""
        if self.get(replica.name) is None:
            return Fleet((*self.replicas, replica))
        return Fleet(tuple(replica if old.name == replica.name else old for old in self.replicas))

    def without(self, name: str) -> Fleet:
        """The fleet without the replica of this name."""
        return Fleet(tuple(replica for replica in self.replicas if replica.name != name))

    def unready_reason(self, model: str) -> str:
        """Why no replica of `model` can be given a request, for people."""
        replicas = self.of_model(model)
        if not replicas:
            return "no replica is running"
        return "; ".join(f"{replica.name} is {replica.state}: {replica.cause}" for replica in replicas)
