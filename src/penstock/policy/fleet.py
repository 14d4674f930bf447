"""The fleet: all replicas and what is known of each, as one immutable snapshot; and how a state moves.

The table below is the whole state machine. A pair of state and event that it does not list changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from penstock.core.config import Address


class State(StrEnum):
    """Where a replica is in its life. Those in `SERVING` are given requests, no others."""

    ABSENT = "absent"  # nothing is known of it
    STARTING = "starting"  # its process may run; nothing answers yet
    LOADING = "loading"  # it answers, and says that it is not ready
    WARMING = "warming"  # it says that it is ready; a one-token canary must prove it
    READY = "ready"
    BUSY = "busy"  # ready, and all its permits have been out for a while: what comes waits in line
    STALLED = "stalled"  # it has requests, and makes no progress
    DRAINING = "draining"  # finishes what it has
    STOPPED = "stopped"


SERVING = frozenset({State.READY, State.BUSY})
# What they were brought to by stays their cause until they leave.
_SETTLED = SERVING | {State.STALLED, State.DRAINING, State.STOPPED}


class Event(StrEnum):
    """What was seen of a replica."""

    REGISTERED = "registered"  # it shall be there
    REFUSED = "refused"  # no connection: nothing listens
    SLOW = "slow"  # the health check was cut or came to no end: no proof of anything
    UNREADY = "unready"  # the health check was answered, but not with 200
    HEALTHY = "healthy"  # the health check was answered with 200, which proves nothing of one that stalls
    WARMED = "warmed"  # the canary's token came
    MUTE = "mute"  # it answers, and offers nothing that a canary could ask for
    CANARY_FAILED = "canary_failed"
    FULL = "full"  # all its permits are out, and have been for a while
    ROOM = "room"  # not so any more, for a while
    STALL = "stall"  # requests, and no step and no byte for too long
    RESUMED = "resumed"  # its engine makes steps again, or a token came
    DRAIN = "drain"
    UNDRAIN = "undrain"
    GONE = "gone"  # no longer registered, or its process ended


_NEXT: dict[tuple[State, Event], State] = {
    (State.ABSENT, Event.REGISTERED): State.STARTING,
    (State.STARTING, Event.UNREADY): State.LOADING,
    (State.STARTING, Event.HEALTHY): State.WARMING,
    (State.LOADING, Event.HEALTHY): State.WARMING,
    (State.LOADING, Event.REFUSED): State.STARTING,
    (State.WARMING, Event.WARMED): State.READY,
    (State.WARMING, Event.MUTE): State.READY,
    (State.WARMING, Event.UNREADY): State.LOADING,
    (State.WARMING, Event.REFUSED): State.STARTING,
    (State.WARMING, Event.DRAIN): State.DRAINING,
    (State.READY, Event.FULL): State.BUSY,
    (State.BUSY, Event.ROOM): State.READY,
    **{(state, Event.STALL): State.STALLED for state in SERVING},
    **{(state, Event.REFUSED): State.STARTING for state in (*SERVING, State.STALLED, State.DRAINING)},
    **{(state, Event.UNREADY): State.LOADING for state in (*SERVING, State.STALLED)},
    **{(state, Event.DRAIN): State.DRAINING for state in (*SERVING, State.STALLED)},
    (State.STALLED, Event.RESUMED): State.WARMING,
    (State.DRAINING, Event.UNDRAIN): State.WARMING,
    **{(state, Event.GONE): State.STOPPED for state in State},
}


@dataclass(frozen=True, slots=True)
class Replica:
    """One running engine with one address, and what is known of it.

    Args:
        cause: why it is in its state, one short phrase that may be told to anybody.
        evidence: what was seen, in full, for whoever runs it.
        since_s: when it came into its state, on the monotonic clock; of a busy one, when it became ready.
    """

    name: str
    model: str
    engine: str
    address: Address
    api_key: str = field(repr=False)
    state: State = State.ABSENT
    cause: str = "not asked yet"
    evidence: str = ""
    since_s: float = 0.0

    def after(self, event: Event, cause: str, now_s: float, evidence: str = "") -> Replica:
        """This replica once `event` was seen."""
        state = _NEXT.get((self.state, event), self.state)
        if state is self.state and state in _SETTLED:
            return self
        stays = state is self.state or (state in SERVING and self.state in SERVING)
        since_s = self.since_s if stays else now_s
        return replace(self, state=state, cause=cause, evidence=evidence, since_s=since_s)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All replicas, in the order in which they became known."""

    replicas: tuple[Replica, ...] = ()
    _ready: Mapping[str, tuple[Replica, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ready: dict[str, tuple[Replica, ...]] = {}  # asked for several times by each request
        for replica in self.replicas:
            if replica.state in SERVING:
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
