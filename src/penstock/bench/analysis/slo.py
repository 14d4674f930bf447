"""Whether a request was good: limits such as `ttft=500ms,tpot=50ms`, all of which it must meet. Pure.

A failed request met nothing. One that was cancelled or cut off missed a limit only if it had passed it by then, and is
undetermined otherwise. An answer of one token, or of one chunk, has no time between them: it is judged by the other
limits, such as TTFT and E2E, alone.
"""

from __future__ import annotations

from difflib import get_close_matches

import msgspec

from penstock.bench.analysis.measures import BY_NAME, tokens
from penstock.bench.sample import Cause, Sample
from penstock.core.errors import PenstockError
from penstock.core.units import parse_duration_s

# What a limit is called, and the measure that it limits. `itl` is the request's own mean, `gap` its longest one.
LIMITS = {
    "ttft": "ttft",
    "first_answer": "first_answer",
    "itl": "itl_request",
    "gap": "gap_max",
    "tpot": "tpot",
    "decode": "decode",
    "e2e": "e2e",
}
_BETWEEN_TOKENS = frozenset({"itl", "gap", "tpot", "decode"})
_UNFINISHED = frozenset({Cause.CANCELLED, Cause.CUT_OFF})
HINT = "write it as in ttft=500ms,tpot=50ms,e2e=5s"


class SloError(PenstockError):
    """A text that is no SLO."""

    code = "bad_slo"


class Slo(msgspec.Struct, frozen=True):
    """The limits of a good request.

    Args:
        limits_s: name in `LIMITS` -> seconds, above 0.
        text: as it was written.
    """

    limits_s: dict[str, float]
    text: str


class Judged(msgspec.Struct, frozen=True):
    """What came of one request.

    Args:
        good: None where it can't be told.
        missed: the limits that it missed; a failed one misses none by name.
    """

    good: bool | None
    missed: tuple[str, ...] = ()


def parse_slo(text: str) -> Slo:
    """Limits from text.

    Args:
        text: `name=duration` pairs with commas between them.

    Raises:
        SloError: a name is unknown or given twice, or a duration is none or not above 0.
    """
    limits_s: dict[str, float] = {}
    for part in text.split(","):
        name, equals, limit = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise SloError(f"slo: {part.strip()!r} is no name=duration", hint=HINT)
        if name not in LIMITS:
            near = get_close_matches(name, LIMITS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise SloError(f"slo.{name}: no such limit{meant}", hint=f"limits are {', '.join(LIMITS)}")
        if name in limits_s:
            raise SloError(f"slo.{name}: given twice", hint=HINT)
        limits_s[name] = _limit_s(name, limit)
    return Slo(limits_s, ",".join(f"{part.strip()}" for part in text.split(",")))


def _limit_s(name: str, text: str) -> float:
    try:
        limit_s = parse_duration_s(text)
    except ValueError as error:
        raise SloError(f"slo.{name}: {text!r}: {error}", hint=HINT) from None
    if limit_s <= 0:
        raise SloError(f"slo.{name}: {text!r}: must be above 0", hint=HINT)
    return limit_s


def judged(slo: Slo, sample: Sample) -> Judged:
    """Whether a request met every limit."""
    if sample.cause in _UNFINISHED:
        missed = tuple(name for name, limit_s in slo.limits_s.items() if _passed(sample, name, limit_s))
        return Judged(False if missed else None, missed)
    if sample.cause is not Cause.NONE:
        return Judged(False)
    met = {name: _met(sample, name, limit_s) for name, limit_s in slo.limits_s.items()}
    missed = tuple(name for name, each in met.items() if each is False)
    if missed:
        return Judged(False, missed)
    return Judged(None if None in met.values() else True)


def meets(slo: Slo, sample: Sample) -> bool | None:
    """The same in one word."""
    return judged(slo, sample).good


def _met(sample: Sample, name: str, limit_s: float) -> bool | None:
    value_s = _value_s(sample, name)
    if value_s is not None:
        return value_s <= limit_s
    alone = tokens(sample) == 1 or len(sample.chunk_s) == 1  # nothing lies between
    return True if name in _BETWEEN_TOKENS and alone else None


def _passed(sample: Sample, name: str, limit_s: float) -> bool:
    """Whether an unfinished one is beyond a limit already, whatever would have come."""
    value_s = _value_s(sample, name)
    if name == "gap":
        return value_s is not None and value_s > limit_s
    if name in _BETWEEN_TOKENS or sample.ended_s is None:
        return False  # a mean may yet fall
    reached_s = value_s if value_s is not None and name != "e2e" else sample.ended_s - sample.scheduled_s
    return reached_s > limit_s


def _value_s(sample: Sample, name: str) -> float | None:
    of = BY_NAME[LIMITS[name]].of
    return of(sample) if of is not None else None
