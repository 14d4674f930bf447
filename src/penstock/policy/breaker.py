"""Whether a replica is trusted with requests, as far as its own failures tell.

The table below is the whole state machine; a pair that it does not list only counts. A replica is ejected when it
fails many times in a row, or far more often than its siblings do; never for what a client did, never when no sibling
does better, and never the last one. What an attempt tells counts only for the state in which it began.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import msgspec

from penstock.core.errors import DeadlineError, Fault, PenstockError, Phase
from penstock.policy.fleet import Replica


class Trust(StrEnum):
    """Where the breaker of a replica is."""

    CLOSED = "closed"  # it gets requests
    OPEN = "open"  # it is ejected
    HALF_OPEN = "half_open"  # one request at a time shows whether it works again


class Sign(StrEnum):
    """What an attempt tells about its replica."""

    SUCCESS = "success"
    FAILURE = "failure"
    NOTHING = "nothing"  # the client's doing, or the gateway's


class Event(StrEnum):
    """What moves a breaker."""

    EJECTED = "ejected"
    PROBED = "probed"  # its time is over and it is given a request
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_NEXT: dict[tuple[Trust, Event], Trust] = {
    (Trust.CLOSED, Event.EJECTED): Trust.OPEN,
    (Trust.OPEN, Event.PROBED): Trust.HALF_OPEN,
    (Trust.OPEN, Event.SUCCEEDED): Trust.CLOSED,  # asked because all were ejected, and it answered
    (Trust.HALF_OPEN, Event.SUCCEEDED): Trust.CLOSED,
    (Trust.HALF_OPEN, Event.FAILED): Trust.OPEN,
}

# Said about the request rather than about the engine: what it does not offer, it offers to nobody.
_NOT_OFFERED = frozenset({501, 505})
# The codes of exchanges that the gateway itself has ended: one that stalled is judged by its replica's state.
_OWN_DOING = frozenset({"cancelled", "engine_stalled"})


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a replica is ejected, and for how long.

    Args:
        failures_in_row_max: so many failures in a row eject it.
        window_s: how far back its rate of failures is looked at; by halves, so it is half of this at least.
        requests_min: a rate of fewer requests says nothing; its own, and its siblings' together.
        rate_above: its rate of failures must be so much above its siblings', as a part of 1.
        deviations: and so many standard deviations, by the two-proportion z-test.
        ejection_s: the first ejection; each further one is twice as long.
        ejection_s_max: the longest one.
        forgiven_after_s: closed for so long, its earlier ejections do not count any more.
        ejected_share_max: the part of a model's ready replicas that may be ejected at once, rounded up; one
            always stays.
        probe_patience_s: a probe that told nothing for so long does not hold back the next one.
    """

    failures_in_row_max: int = 5
    window_s: float = 30.0
    requests_min: int = 20
    rate_above: float = 0.2
    deviations: float = 3.0
    ejection_s: float = 5.0
    ejection_s_max: float = 120.0
    forgiven_after_s: float = 300.0
    ejected_share_max: float = 0.5
    probe_patience_s: float = 60.0


LIMITS = BreakerLimits()


class Breaker(msgspec.Struct, frozen=True):
    """What is remembered of one replica: a struct, because each request makes a new one.

    Args:
        state: where it is.
        since_s: when it came into its state, on the monotonic clock.
        returned_s: when it came back; infinite while it is away. So one comparison tells whether it is one to
            think about.
        until_s: when an ejected one may be probed.
        probe_s: when the probe under way began; None where there is none.
        cause: why it was ejected last, one short phrase.
        ejections: how often it was ejected lately.
        in_row: failures since the last success.
        half_s: when the young half of the window began.
        good, bad: successes and failures in the young half.
        old_good, old_bad: the same in the half before.
    """

    state: Trust = Trust.CLOSED
    since_s: float = -math.inf
    returned_s: float = -math.inf
    until_s: float = -math.inf
    probe_s: float | None = None
    cause: str = ""
    ejections: int = 0
    in_row: int = 0
    half_s: float = -math.inf
    good: int = 0
    bad: int = 0
    old_good: int = 0
    old_bad: int = 0


CLEAN = Breaker()
NO_BREAKERS: Mapping[str, Breaker] = MappingProxyType({})


def sign_of(
    *,
    status: int | None = None,
    error: BaseException | None = None,
    limited_by_client: bool = False,
    no_token: bool = False,
) -> Sign:
    """What an attempt tells about its replica.

    Args:
        status: of the engine's answer; None where none came.
        error: what ended the attempt; None where the answer came to its proper end.
        limited_by_client: the time limit that passed was one that the client had lowered.
        no_token: the answer is streamed and not one token of it came.
    """
    if isinstance(error, DeadlineError) and (
        limited_by_client or error.phase is Phase.QUEUE or (error.phase is Phase.TOTAL and not no_token)
    ):
        return Sign.NOTHING  # a long answer was under way, or nobody waited for the engine
    if isinstance(error, PenstockError):
        failed = error.fault is Fault.ENGINE and error.code not in _OWN_DOING and _is_failure(error.status)
        return Sign.FAILURE if failed else Sign.NOTHING
    if error is not None or status is None:
        return Sign.NOTHING
    if _is_failure(status):
        return Sign.FAILURE
    return Sign.SUCCESS if status < 400 else Sign.NOTHING


def _is_failure(status: int) -> bool:
    return status >= 500 and status not in _NOT_OFFERED


def allowed(
    replicas: Sequence[Replica],
    breakers: Mapping[str, Breaker],
    now_s: float,
    limits: BreakerLimits = LIMITS,
) -> Sequence[Replica]:
    """Those of `replicas` that may be given a request now; none where all are ejected."""
    return [r for r in replicas if _admits(breakers.get(r.name, CLEAN), now_s, limits)]


def all_settled(
    replicas: Sequence[Replica], breakers: Mapping[str, Breaker], returned_before_s: float
) -> bool:
    """Whether all of them are trusted, and have been ready and trusted since before this time."""
    for replica in replicas:
        breaker = breakers.get(replica.name, CLEAN)
        if replica.since_s > returned_before_s or breaker.returned_s > returned_before_s:
            return False
    return True


def begun(breaker: Breaker, now_s: float, limits: BreakerLimits = LIMITS) -> Breaker:
    """The breaker once its replica was chosen for an attempt: a probe, where it is ejected and its time is over.

    Whoever calls this tells what came of the attempt by `observed`, also where that is `Sign.NOTHING`.
    """
    if breaker.state is Trust.CLOSED or not _admits(breaker, now_s, limits):
        return breaker
    state = _NEXT.get((breaker.state, Event.PROBED), breaker.state)
    return msgspec.structs.replace(breaker, state=state, since_s=breaker.until_s, probe_s=now_s)


def observed(
    breakers: Mapping[str, Breaker],
    name: str,
    sign: Sign,
    now_s: float,
    *,
    begun_s: float,
    ready: Sequence[Replica],
    limits: BreakerLimits = LIMITS,
) -> Breaker:
    """The breaker of the replica `name` once an attempt at it has ended.

    Args:
        breakers: of all replicas; a missing one is clean.
        begun_s: when the attempt began; what began before the breaker came into its state tells nothing.
        ready: the replicas that may be given requests for the model; its siblings are among them.
    """
    breaker = breakers.get(name, CLEAN)
    if begun_s < breaker.since_s:
        return breaker
    if sign is Sign.NOTHING:
        return breaker if breaker.probe_s is None else msgspec.structs.replace(breaker, probe_s=None)
    if breaker.state is not Trust.CLOSED:
        return _tried(breaker, sign, now_s, limits)
    counted = _counted(breaker, sign, now_s, limits)
    if sign is Sign.SUCCESS:
        return counted
    siblings = [breakers.get(replica.name, CLEAN) for replica in ready if replica.name != name]
    cause = _cause(counted, siblings, now_s, limits)
    return _ejected(counted, cause, now_s, limits) if cause else counted


def _admits(breaker: Breaker, now_s: float, limits: BreakerLimits) -> bool:
    if breaker.state is Trust.OPEN:
        return now_s >= breaker.until_s
    if breaker.state is Trust.HALF_OPEN:
        return breaker.probe_s is None or now_s - breaker.probe_s >= limits.probe_patience_s
    return True


def _counted(breaker: Breaker, sign: Sign, now_s: float, limits: BreakerLimits) -> Breaker:
    good, bad, old_good, old_bad = _window(breaker, now_s, limits)
    half_s = limits.window_s / 2
    failed = sign is Sign.FAILURE
    return Breaker(
        breaker.state,
        breaker.since_s,
        breaker.returned_s,
        breaker.until_s,
        None,
        breaker.cause,
        breaker.ejections,
        breaker.in_row + 1 if failed else 0,
        breaker.half_s if now_s - breaker.half_s < half_s else now_s,
        good + (not failed),
        bad + failed,
        old_good,
        old_bad,
    )


def _window(breaker: Breaker, now_s: float, limits: BreakerLimits) -> tuple[int, int, int, int]:
    """Successes and failures in the young half of the window and in the old one, as seen now."""
    age_s = now_s - breaker.half_s
    if age_s < limits.window_s / 2:
        return breaker.good, breaker.bad, breaker.old_good, breaker.old_bad
    if age_s < limits.window_s:
        return 0, 0, breaker.good, breaker.bad
    return 0, 0, 0, 0


def _tried(breaker: Breaker, sign: Sign, now_s: float, limits: BreakerLimits) -> Breaker:
    """An ejected one after a request that began since."""
    event = Event.SUCCEEDED if sign is Sign.SUCCESS else Event.FAILED
    state = _NEXT.get((breaker.state, event), breaker.state)
    if state is Trust.CLOSED:
        return Breaker(since_s=now_s, returned_s=now_s, cause=breaker.cause, ejections=breaker.ejections)
    if state is not breaker.state:
        return _opened(breaker, "its probe failed", now_s, limits)
    return breaker


def _cause(breaker: Breaker, siblings: Iterable[Breaker], now_s: float, limits: BreakerLimits) -> str:
    """Why this one is to be ejected; empty where it is not, or may not be."""
    others = list(siblings)
    trusted = [other for other in others if other.state is Trust.CLOSED]
    ejected = len(others) - len(trusted) + 1
    if ejected > math.ceil(limits.ejected_share_max * (len(others) + 1)):
        return ""
    if not any(other.in_row < limits.failures_in_row_max for other in trusted):
        return ""  # nobody would do better
    if breaker.in_row >= limits.failures_in_row_max:
        return f"{breaker.in_row} failures in a row"
    return _outlies(breaker, trusted, now_s, limits)


def _outlies(breaker: Breaker, trusted: Iterable[Breaker], now_s: float, limits: BreakerLimits) -> str:
    good, bad = _sums([breaker], now_s, limits)
    others_good, others_bad = _sums(trusted, now_s, limits)
    count, others = good + bad, others_good + others_bad
    if min(count, others) < limits.requests_min:
        return ""
    above = bad / count - others_bad / others
    pooled = (bad + others_bad) / (count + others)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / count + 1 / others))
    if above < limits.rate_above or above < limits.deviations * deviation:
        return ""
    return f"{bad} of {count} requests failed, and {others_bad} of {others} at its siblings"


def _sums(breakers: Iterable[Breaker], now_s: float, limits: BreakerLimits) -> tuple[int, int]:
    good = bad = 0
    for breaker in breakers:
        young_good, young_bad, old_good, old_bad = _window(breaker, now_s, limits)
        good += young_good + old_good
        bad += young_bad + old_bad
    return good, bad


def _ejected(breaker: Breaker, cause: str, now_s: float, limits: BreakerLimits) -> Breaker:
    if now_s - breaker.since_s >= limits.forgiven_after_s:
        breaker = msgspec.structs.replace(breaker, ejections=0)
    return _opened(breaker, cause, now_s, limits)


def _opened(breaker: Breaker, cause: str, now_s: float, limits: BreakerLimits) -> Breaker:
    doublings = min(breaker.ejections, 60)
    return Breaker(
        state=Trust.OPEN,
        since_s=now_s,
        returned_s=math.inf,
        until_s=now_s + min(limits.ejection_s * 2**doublings, limits.ejection_s_max),
        cause=cause,
        ejections=breaker.ejections + 1,
        in_row=breaker.in_row,
    )
