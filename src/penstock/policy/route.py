"""Which replica gets a request, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock.policy.fleet import Replica


@dataclass(frozen=True, slots=True)
class Choice:
    """A replica, and the reason for it: goes on the record."""

    replica: Replica
    reason: str


Strategy = Callable[[Sequence[Replica], Mapping[str, int], int], Choice]


def route(
    ready: Sequence[Replica],
    in_flight: Mapping[str, int],
    turn: int,
    *,
    strategy: str,
    tried: frozenset[str] = frozenset(),
) -> Choice | None:
    """The replica for the next attempt; None where no replica is ready.

    Args:
        ready: the replicas that may be given requests.
        in_flight: permits held, by replica name; a missing name holds none.
        turn: a number that grows by one with every request of the model; breaks ties in turn.
        strategy: a name in `STRATEGIES`.
        tried: names that this request has tried; used again only where every ready replica is among them.
    """
    untried = [replica for replica in ready if replica.name not in tried]
    candidates = untried or ready
    if not candidates:
        return None
    if len(candidates) == 1:
        return Choice(candidates[0], "only_one" if len(ready) == 1 else "last_untried")
    return STRATEGIES[strategy](candidates, in_flight, turn)


def _round_robin(candidates: Sequence[Replica], _: Mapping[str, int], turn: int) -> Choice:
    return Choice(candidates[turn % len(candidates)], "round_robin")


def _least_load(candidates: Sequence[Replica], in_flight: Mapping[str, int], turn: int) -> Choice:
    count = len(candidates)
    in_turn = [candidates[(turn + i) % count] for i in range(count)]
    return Choice(min(in_turn, key=lambda replica: in_flight.get(replica.name, 0)), "least_load")


STRATEGIES: dict[str, Strategy] = {"round_robin": _round_robin, "least_load": _least_load}
