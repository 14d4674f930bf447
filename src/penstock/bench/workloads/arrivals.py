"""When requests are sent: the whole schedule, from one seed, before the run; pure.

A load is a course of the rate over time, and how evenly requests follow it. A process of events with a mean gap of 1
is stretched so that its events fall where the rate's integral passes them (time rescaling; Cox and Lewis, "The
Statistical Analysis of Series of Events", 1966), which holds for a rate that changes as for one that does not. The
schedule is dealt out to processes, never made by them: it is the same however many they are.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import msgspec

from penstock.bench.plan import Stage
from penstock.core.errors import PenstockError
from penstock.core.units import format_duration, parse_duration_s

# The times are held in memory, in 32 bytes each: a day of 100 requests a second.
SENDS_MAX = 10_000_000
# More than any one machine sends; a mistyped rate is told before memory is full of it.
RATE_PER_S_MAX = 1_000_000.0
CONCURRENCY_MAX = 1_000_000
# A ramp is told apart in so many parts, of which each has a rate that people can compare.
RAMP_STAGES = 5

EXAMPLES = (
    "closed:32",
    "constant:20",
    "poisson:20",
    "gamma:20,0.5",
    "ramp:1-20",
    "staircase:1,2,4,8/30s",
    "spike:5-50@30s+10s",
)
_SHAPES = {
    "closed": re.compile(r"(\d+)"),
    "constant": re.compile(r"([\d.]+)"),
    "poisson": re.compile(r"([\d.]+)"),
    "gamma": re.compile(r"([\d.]+),([\d.]+)"),
    "ramp": re.compile(r"([\d.]+)-([\d.]+)"),
    "staircase": re.compile(r"([\d.]+(?:,[\d.]+)*)/([\d.]+\w+)"),
    "spike": re.compile(r"([\d.]+)-([\d.]+)@([\d.]+\w+)\+([\d.]+\w+)"),
}
# How evenly requests follow the rate: the shape of the gamma distribution of gaps.
EVEN = math.inf
POISSON = 1.0


class LoadError(PenstockError):
    """A load that can't be sent, or is none."""

    code = "bad_load"


class Load(msgspec.Struct, frozen=True):
    """A load, as people describe it; made by the methods that are named for its kinds.

    Args:
        kind: `closed`, `constant`, `poisson`, `gamma`, `ramp`, `staircase` or `spike`.
        concurrency: requests under way at once, of a closed loop; else None.
        rates: requests a second, one after the other.
        burstiness: shape of the gamma distribution of gaps, above 0, as in `vllm bench serve`: 1 is Poisson, less
            comes in bursts, more is more even; infinite is evenly spaced.
        step_s: length of each step of a staircase, seconds.
        at_s, length_s: when a spike begins, and how long it lasts, seconds.
    """

    kind: str
    concurrency: int | None = None
    rates: tuple[float, ...] = ()
    burstiness: float = POISSON
    step_s: float = 0.0
    at_s: float = 0.0
    length_s: float = 0.0

    @classmethod
    def closed(cls, concurrency: int) -> Self:
        """As many requests as `concurrency`, 1 or more, at any time."""
        return cls("closed", concurrency=concurrency)._checked()

    @classmethod
    def constant(cls, rate: float) -> Self:
        """`rate` requests a second, evenly spaced."""
        return cls("constant", rates=(rate,), burstiness=EVEN)._checked()

    @classmethod
    def poisson(cls, rate: float) -> Self:
        """`rate` requests a second, none of which knows of another."""
        return cls("poisson", rates=(rate,))._checked()

    @classmethod
    def gamma(cls, rate: float, burstiness: float) -> Self:
        """`rate` requests a second, in bursts (`burstiness` below 1) or more evenly (above)."""
        return cls("gamma", rates=(rate,), burstiness=burstiness)._checked()

    @classmethod
    def ramp(cls, begin: float, end: float, *, burstiness: float = POISSON) -> Self:
        """From `begin` to `end` requests a second, evenly over the whole duration."""
        return cls("ramp", rates=(begin, end), burstiness=burstiness)._checked()

    @classmethod
    def staircase(cls, rates: tuple[float, ...], step_s: float, *, burstiness: float = POISSON) -> Self:
        """Each of `rates` for `step_s` seconds."""
        return cls("staircase", rates=rates, step_s=step_s, burstiness=burstiness)._checked()

    @classmethod
    def spike(
        cls, base: float, peak: float, at_s: float, length_s: float, *, burstiness: float = POISSON
    ) -> Self:
        """`base` requests a second, but `peak` for `length_s` seconds from `at_s` on."""
        load = cls("spike", rates=(base, peak), at_s=at_s, length_s=length_s, burstiness=burstiness)
        return load._checked()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The load that a text such as one of `EXAMPLES` describes.

        Raises:
            LoadError: it describes none.
        """
        kind, _, rest = text.strip().partition(":")
        shape = _SHAPES.get(kind)
        match = shape.fullmatch(rest.replace(" ", "")) if shape else None
        try:
            if match is None:
                raise ValueError
            return cls._of(kind, match.groups())
        except ValueError:
            raise LoadError(f"{text!r} is no load", hint=f"such as {', '.join(EXAMPLES)}") from None

    @classmethod
    def _of(cls, kind: str, said: tuple[str, ...]) -> Self:
        if kind == "closed":
            return cls.closed(int(said[0]))
        if kind == "staircase":
            return cls.staircase(tuple(map(float, said[0].split(","))), parse_duration_s(said[1]))
        if kind == "spike":
            return cls.spike(float(said[0]), float(said[1]), *map(parse_duration_s, said[2:]))
        if kind in ("gamma", "ramp"):
            make = cls.gamma if kind == "gamma" else cls.ramp
            return make(float(said[0]), float(said[1]))
        return cls.constant(float(said[0])) if kind == "constant" else cls.poisson(float(said[0]))

    @property
    def is_closed(self) -> bool:
        """Whether a request waits for a place, and not for its time."""
        return self.concurrency is not None

    @property
    def label(self) -> str:
        """What it is, for people."""
        if self.is_closed:
            return f"concurrency {self.concurrency}"
        rates = [f"{rate:g}" for rate in self.rates]
        if self.kind == "ramp":
            return f"ramp {'-'.join(rates)}/s"
        if self.kind == "staircase":
            return f"staircase {', '.join(rates)}/s, {format_duration(self.step_s)} each"
        if self.kind == "spike":
            length = format_duration(self.length_s)
            return f"{rates[0]}/s, {rates[1]}/s for {length} at {format_duration(self.at_s)}"
        return f"{rates[0]}/s {self.kind}" + (f" {self.burstiness:g}" if self.kind == "gamma" else "")

    def _checked(self) -> Self:
        if self.concurrency is not None and not 1 <= self.concurrency <= CONCURRENCY_MAX:
            raise LoadError(f"concurrency {self.concurrency}: expected 1 to {CONCURRENCY_MAX}")
        lowest = 0.0 if self.kind in ("ramp", "spike") else math.ulp(0.0)
        for rate in self.rates:
            if not lowest <= rate <= RATE_PER_S_MAX:
                raise LoadError(
                    f"{self.kind}: a rate of {rate:g}/s: expected more than 0, to {RATE_PER_S_MAX:g}"
                )
        if self.rates and max(self.rates) == 0:
            raise LoadError(f"{self.kind}: all its rates are 0, so nothing would be sent")
        if not self.burstiness > 0:
            raise LoadError(f"{self.kind}: a burstiness of {self.burstiness:g}: expected more than 0")
        if self.kind == "staircase" and not 0 < self.step_s < math.inf:
            raise LoadError(f"staircase: steps of {self.step_s:g} s: expected more than 0")
        if self.kind == "spike" and not (0 <= self.at_s < math.inf and 0 < self.length_s < math.inf):
            raise LoadError(
                f"spike: at {self.at_s:g} s for {self.length_s:g} s: expected a time and a length"
            )
        return self


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the course of the rate, in which it changes evenly; `length_s` may be infinite."""

    begin: float
    end: float
    length_s: float

    @property
    def sends(self) -> float:
        """How many requests fall into it on average."""
        rate = (self.begin + self.end) / 2
        return rate * self.length_s if rate else 0.0  # also for as long as one likes

    def after_s(self, sends: float) -> float:
        """How long after its beginning its integral has passed `sends`, of which it has that many at least."""
        slope = (self.end - self.begin) / self.length_s
        return 2 * sends / (self.begin + math.sqrt(max(0.0, self.begin**2 + 2 * slope * sends)))


def schedule(
    load: Load, *, duration_s: float | None = None, count: int | None = None, seed: int = 0
) -> tuple[list[float], list[Stage]]:
    """When each request is sent, seconds from the start, ascending; and the stages that they belong to.

    The times of a closed loop are not known before; its list is empty.

    Args:
        duration_s: all of them are earlier than this, above 0.
        count: they are no more than this, 1 or more. One of both must be given, but for a staircase.
        seed: of all that is random in it.

    Raises:
        LoadError: there is no end to it, or no sense in it.
    """
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise LoadError(f"a duration of {duration_s:g} s: expected more than 0")
    if count is not None and not 1 <= count <= SENDS_MAX:
        raise LoadError(f"{count} requests: expected 1 to {SENDS_MAX}")
    if load.is_closed:
        return [], [Stage(label=load.label, ends_s=duration_s, concurrency=load.concurrency)]
    parts = _course(load, duration_s, count)
    if count is None and sum(part.sends for part in parts) > SENDS_MAX:
        raise LoadError(
            f"{load.label}: more than {SENDS_MAX} requests", hint="shorten the run, or split it into several"
        )
    times = list(_times(parts, load.burstiness, random.Random(seed), count or SENDS_MAX))  # noqa: S311 - no secret
    return times, _stages(load, parts)


def _course(load: Load, duration_s: float | None, count: int | None) -> list[_Part]:
    """The rate over time, until `duration_s` at most; without one, until `count` requests are sent."""
    if load.kind == "staircase":
        parts = [_Part(rate, rate, load.step_s) for rate in load.rates]
    elif duration_s is None and count is None:
        raise LoadError(f"{load.label}: it has no end", hint="give it a duration or a number of requests")
    elif load.kind == "ramp":
        begin, end = load.rates
        parts = [_Part(begin, end, duration_s or 2 * (count or 0) / (begin + end))]
    elif load.kind == "spike":
        base, peak = load.rates
        parts = [_Part(base, base, load.at_s), _Part(peak, peak, load.length_s), _Part(base, base, math.inf)]
    else:
        parts = [_Part(load.rates[0], load.rates[0], math.inf)]
    return list(_cut(parts, duration_s if duration_s is not None else math.inf))


def _cut(parts: list[_Part], duration_s: float) -> Iterator[_Part]:
    begins_s = 0.0
    for part in parts:
        length_s = min(part.length_s, duration_s - begins_s)
        if length_s <= 0:
            continue
        end = part.end if length_s == part.length_s else part.begin
        yield _Part(part.begin, end, length_s)
        begins_s += length_s


def _gaps(burstiness: float, chance: random.Random) -> Iterator[float]:
    """Gaps with a mean of 1, of a process without a rate."""
    if burstiness == EVEN:
        yield 0.0  # evenly spaced requests begin at once
        while True:
            yield 1.0
    while True:
        yield (
            chance.expovariate(1.0)
            if burstiness == POISSON
            else chance.gammavariate(burstiness, 1 / burstiness)
        )


def _times(parts: list[_Part], burstiness: float, chance: random.Random, count: int) -> Iterator[float]:
    """Where the integral of the rate passes the events of the process."""
    left = iter(parts)
    part = next(left, None)
    begins_s = passed = 0.0
    for number, event in enumerate(accumulate(_gaps(burstiness, chance))):
        # What is left of rounding must not move an evenly spaced request over the end of its part.
        while part is not None and event - passed >= part.sends * (1 - 1e-12):
            begins_s += part.length_s
            passed += part.sends
            part = next(left, None)
        if part is None or number == count:
            return
        yield begins_s + (part.after_s(event - passed) if event > passed else 0.0)


def _stages(load: Load, parts: list[_Part]) -> list[Stage]:
    if load.kind == "ramp":
        parts = [piece for part in parts for piece in _pieces(part)]
    stages, begins_s = [], 0.0
    for part in parts:
        rate = (part.begin + part.end) / 2
        ends_s = begins_s + part.length_s if part.length_s < math.inf else None
        stages.append(Stage(label=f"{rate:g}/s", begins_s=begins_s, ends_s=ends_s, rate_per_s=rate))
        begins_s += part.length_s
    return stages


def _pieces(part: _Part) -> list[_Part]:
    step = (part.end - part.begin) / RAMP_STAGES
    return [
        _Part(part.begin + n * step, part.begin + (n + 1) * step, part.length_s / RAMP_STAGES)
        for n in range(RAMP_STAGES)
    ]
