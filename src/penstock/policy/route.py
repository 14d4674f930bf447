"""Which replica gets a request, and why.

First those that may not have it are left out: tried ones and ejected ones, as long as others are left. Then the
strategy decides. Loads are compared by the part of its permits that each replica has given away, ties go to the one
that waited longest for its turn, and a replica that came back a moment ago counts as a small one that is growing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType

import msgspec

from penstock.policy.breaker import CLEAN, LIMITS, NO_BREAKERS, Breaker, BreakerLimits, all_settled, allowed
from penstock.policy.fleet import Replica
from penstock.policy.permits import PERMITS_UNKNOWN
from penstock.policy.prefix import PrefixIndex

SLOW_START_S = 30.0
# Of a full share, on the first moment.
WARMTH_MIN = 0.1

# A replica that has the prompt's beginning, or the session, is passed over when it is full, or holds more than
# BALANCE_FACTOR times its fair part of what is in flight and then one and SLACK_SHARE of its permits.
BALANCE_FACTOR = 1.5
SLACK_SHARE = 1 / 16

# Multiples of it spread evenly over 0 to 1, and fall into step with no number of replicas.
_GOLDEN = 0.6180339887498949
# Another such sequence, so that the two choices of p2c are in no step with the slow start.
_PLASTIC = 0.7548776662466927

# The rest of a longer name does not tell sessions apart.
SESSION_CHARS_MAX = 512

_MASK = 2**64 - 1
_FRACTION = 2**20 - 1

NO_COUNTS: Mapping[str, int] = MappingProxyType({})

ONLY_ONE = "only_one"  # no other is ready
REASONS = frozenset(
    {
        ONLY_ONE,
        "last_untried",  # every other was tried
        "only_allowed",  # every other was tried or is ejected
        "ejected_all",  # all were ejected, which helps nobody: the strategy chose among them
        "round_robin",
        "least_load",
        "p2c",
        "prefix_hit",
        "prefix_miss",
        "prefix_overloaded",
        "session",
        "session_moved",  # the one it belongs to was tried, ejected, overloaded or is still warming up
        "no_session",
    }
)


class Choice(msgspec.Struct, frozen=True):
    """A replica, and the reason for it, one of `REASONS`: goes on the record."""

    replica: Replica
    reason: str


class _View(msgspec.Struct):
    """What a strategy looks at: the arguments of `route`, and what was made of them.

    Args:
        replicas: those that may have this request, two at least; strategies name them by their position.
        warmth: 0 to 1, the part of a full share that each gets, 1 for the warmest; None where all get it.
    """

    replicas: Sequence[Replica]
    warmth: list[float] | None
    ready: Sequence[Replica]
    in_flight: Mapping[str, int]
    concurrency: Mapping[str, int]
    last_turns: Mapping[str, int]
    turn: int
    chance: float
    session: str
    chain: Sequence[int]
    prefixes: PrefixIndex | None


Strategy = Callable[[_View], tuple[int, str]]


def route(
    ready: Sequence[Replica],
    in_flight: Mapping[str, int],
    turn: int,
    *,
    strategy: str,
    tried: frozenset[str] = frozenset(),
    now_s: float | None = None,
    breakers: Mapping[str, Breaker] = NO_BREAKERS,
    breaker_limits: BreakerLimits = LIMITS,
    concurrency: Mapping[str, int] = NO_COUNTS,
    last_turns: Mapping[str, int] = NO_COUNTS,
    chance: float | None = None,
    session: str = "",
    chain: Sequence[int] = (),
    prefixes: PrefixIndex | None = None,
    slow_start_s: float = SLOW_START_S,
) -> Choice | None:
    """The replica for the next attempt; None where no replica is ready.

    Args:
        ready: the replicas that may be given requests.
        in_flight: permits held, by replica name; a missing name holds none.
        turn: a number that grows by one with every choice for the model.
        strategy: a name in `STRATEGIES`.
        tried: names that this request has tried; used again only where nobody else is left.
        now_s: monotonic seconds; without it nobody is ejected and nobody starts slowly.
        breakers: by replica name; a missing one is clean.
        concurrency: permits there are, 1 or more, by replica name; `PERMITS_UNKNOWN` for a missing one.
        last_turns: the turn in which each replica was chosen last; with it, turns stay fair while replicas come and
            go. Without it they are fair while the replicas stay the same.
        chance: 0 to 1, for p2c; without it, taken from `turn`.
        session: the name of the session, for session.
        chain: of the prompt, by `prefix.chain_of`, for prefix.
        prefixes: who has which beginning, for prefix; the caller adds the choice to it.
        slow_start_s: after that a replica that became ready, or came back from its breaker, has its full share.
    """
    if len(ready) == 1:
        return Choice(ready[0], ONLY_ONE)
    candidates, reason, warmth = ready, "", None
    settled = now_s is None or all_settled(ready, breakers, now_s - slow_start_s)
    if tried or not settled:
        candidates, reason = _candidates(ready, tried, breakers, now_s, breaker_limits)
    if len(candidates) <= 1:
        return Choice(candidates[0], reason) if candidates else None
    if now_s is not None and not settled and slow_start_s > 0:
        warmth = _warmth(candidates, breakers, now_s, slow_start_s)
    if chance is None:
        chance = turn * _PLASTIC % 1.0
    view = _View(
        candidates, warmth, ready, in_flight, concurrency, last_turns, turn, chance, session, chain, prefixes
    )
    index, how = STRATEGIES[strategy](view)
    return Choice(candidates[index], reason or how)


def _candidates(
    ready: Sequence[Replica],
    tried: frozenset[str],
    breakers: Mapping[str, Breaker],
    now_s: float | None,
    limits: BreakerLimits,
) -> tuple[Sequence[Replica], str]:
    """Who may have the request; and the reason, where that leaves the strategy nothing to decide."""
    untried = [replica for replica in ready if replica.name not in tried] if tried else ready
    if now_s is None:
        candidates: Sequence[Replica] = untried or ready
    else:
        candidates = allowed(untried, breakers, now_s, limits) or allowed(ready, breakers, now_s, limits)
        if not candidates:
            return untried or ready, "ejected_all"
    if len(candidates) > 1:
        return candidates, ""
    return candidates, "last_untried" if len(untried) == 1 and candidates == untried else "only_allowed"


def _warmth(
    candidates: Sequence[Replica], breakers: Mapping[str, Breaker], now_s: float, slow_start_s: float
) -> list[float] | None:
    """The part of a full share that each gets, 1 for the warmest; None where all are warm."""
    warmth = []
    for replica in candidates:
        breaker = breakers.get(replica.name, CLEAN)
        away = math.isinf(breaker.returned_s)  # one that is to be probed gets its one request at once
        age_s = now_s - (replica.since_s if away else max(replica.since_s, breaker.returned_s))
        part = min(1.0, max(0.0, age_s / slow_start_s))
        warmth.append(WARMTH_MIN + (1 - WARMTH_MIN) * part)
    warmest = max(warmth)
    return None if min(warmth) == warmest else [one / warmest for one in warmth]


def _taking_part(view: _View) -> Sequence[int]:
    """Those among which this turn's load decides: each that has room and is warm, and one that is not now and then.

    Of n replicas one of warmth w takes part in w/n of the turns, and no two of them in the same one: what is idle
    wins whenever it takes part, so that is its share. Only where nobody has room, those that are full take part.
    """
    count = len(view.replicas)
    pool: Sequence[int] = range(count)
    if view.warmth is not None:
        turn = view.turn * _GOLDEN % 1.0 * count
        slot = int(turn)
        pool = [
            i for i, warmth in enumerate(view.warmth) if warmth >= 1.0 or (i == slot and turn - slot < warmth)
        ]
    held, permits = view.in_flight.get, view.concurrency.get
    room = [i for i, r in enumerate(view.replicas) if held(r.name, 0) < permits(r.name, PERMITS_UNKNOWN)]
    if len(room) == count or not room:
        return pool
    return [i for i in pool if i in room] or room  # rather one that is not warm yet than one that is full


def _loads(view: _View) -> list[float]:
    """The part of its permits that each has given away; one that is not warm has fewer of them."""
    held, permits = view.in_flight.get, view.concurrency.get
    loads = [held(name := r.name, 0) / permits(name, PERMITS_UNKNOWN) for r in view.replicas]
    if view.warmth is None:
        return loads
    return [load / warmth for load, warmth in zip(loads, view.warmth, strict=True)]


def _least(values: Sequence[float], pool: Sequence[int]) -> Sequence[int]:
    """Those of `pool` that have the least value."""
    if len(pool) == len(values):
        least = min(values)
        count = values.count(least)
        if count == 1:
            return (values.index(least),)
        if count == len(values):
            return pool
    else:
        least = min([values[i] for i in pool])
    return [i for i in pool if values[i] == least]


def _longest_waiting(view: _View, pool: Sequence[int]) -> int:
    last, replicas = view.last_turns.get, view.replicas
    turns = [last(replicas[i].name, -1) for i in pool]
    first = min(turns)
    if turns.count(first) == 1:
        return pool[turns.index(first)]
    ties = [i for i, turn in zip(pool, turns, strict=True) if turn == first]
    count = len(replicas)
    return min(ties, key=lambda i: (i - view.turn) % count)


def _least_loaded(view: _View, pool: Sequence[int]) -> int:
    ties = _least(_loads(view), pool)
    return ties[0] if len(ties) == 1 else _longest_waiting(view, ties)


def _is_overloaded(view: _View) -> Callable[[int], bool]:
    """Tells which of them hold too much to be given more for the sake of a cache."""
    held = [view.in_flight.get(replica.name, 0) for replica in view.replicas]
    permits = [view.concurrency.get(replica.name, PERMITS_UNKNOWN) for replica in view.replicas]
    weights: Sequence[float] = permits
    if view.warmth is not None:
        weights = [count * warmth for count, warmth in zip(permits, view.warmth, strict=True)]
    bar = BALANCE_FACTOR * sum(held) / sum(weights)

    def is_overloaded(i: int) -> bool:
        return held[i] >= permits[i] or held[i] > bar * weights[i] + 1 + permits[i] * SLACK_SHARE

    return is_overloaded


def _round_robin(view: _View) -> tuple[int, str]:
    return _longest_waiting(view, _taking_part(view)), "round_robin"


def _least_load(view: _View) -> tuple[int, str]:
    return _least_loaded(view, _taking_part(view)), "least_load"


def _p2c(view: _View) -> tuple[int, str]:
    pool = _taking_part(view)
    count = len(pool)
    if count == 1:
        return pool[0], "p2c"
    pairs = count * (count - 1)
    one, other = divmod(min(int(view.chance * pairs), pairs - 1), count - 1)
    i, j = pool[one], pool[(one + 1 + other) % count]
    return (j if _load(view, j) < _load(view, i) else i), "p2c"


def _load(view: _View, i: int) -> float:
    name = view.replicas[i].name
    load = view.in_flight.get(name, 0) / view.concurrency.get(name, PERMITS_UNKNOWN)
    return load if view.warmth is None else load / view.warmth[i]


def _prefix(view: _View) -> tuple[int, str]:
    pool = _taking_part(view)
    hits: list[int] = []
    if view.prefixes is not None and view.chain:
        places = {replica.name: i for i, replica in enumerate(view.replicas)}
        hits = [places[name] for name in view.prefixes.holders(view.chain, places)[1]]
    if not hits:
        return _least_loaded(view, pool), "prefix_miss"
    is_overloaded = _is_overloaded(view)
    free = [i for i in hits if not is_overloaded(i)]
    if free:
        return _least_loaded(view, free), "prefix_hit"
    others = [i for i in pool if not is_overloaded(i)]
    if not others:  # rather one that is not warm yet than one that has too much
        others = [i for i in range(len(view.replicas)) if not is_overloaded(i)]
    return _least_loaded(view, others or pool), "prefix_overloaded"


def _session(view: _View) -> tuple[int, str]:
    if not view.session:
        return _least_loaded(view, _taking_part(view)), "no_session"
    seed = _hash(view.session[:SESSION_CHARS_MAX])
    ranks = [_rank(seed, replica.name) for replica in view.replicas]
    is_overloaded = _is_overloaded(view)

    def suits(i: int) -> bool:
        is_warm = view.warmth is None or (ranks[i] & _FRACTION) / _FRACTION <= view.warmth[i]
        return is_warm and not is_overloaded(i)

    first = index = ranks.index(max(ranks))
    if not suits(first):
        order = sorted(range(len(ranks)), key=ranks.__getitem__, reverse=True)
        index = next((i for i in order if suits(i)), -1)
        if index < 0:  # rather one that is cold, or has much, than one that is full
            index = next((i for i in order if not is_overloaded(i)), -1)
        if index < 0:
            index = _least_loaded(view, _taking_part(view))
    home = ranks[first]
    if len(view.ready) > len(view.replicas):
        home = max([_rank(seed, replica.name) for replica in view.ready])
    return index, "session" if ranks[index] == home else "session_moved"


def _rank(seed: int, name: str) -> int:
    """By rendezvous hashing: of all replicas, the one of the highest rank has the session.

    The same in every gateway. A replica that comes or goes moves the sessions that it gets or had, and no other.
    """
    mixed = (seed ^ _hash_of_name(name)) * 0xBF58476D1CE4E5B9 & _MASK
    return (mixed ^ mixed >> 31) * 0x94D049BB133111EB & _MASK  # the finalizer of SplitMix64


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


_hash_of_name = lru_cache(maxsize=1024)(_hash)

STRATEGIES: dict[str, Strategy] = {
    "round_robin": _round_robin,
    "least_load": _least_load,
    "p2c": _p2c,
    "prefix": _prefix,
    "session": _session,
}
