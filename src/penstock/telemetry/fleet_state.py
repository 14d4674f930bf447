"""What `/metrics` shows of lines, replicas and parts as they are now, asked for at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

from penstock.policy.breaker import CLEAN, Breaker, Trust
from penstock.policy.fleet import Fleet, State
from penstock.telemetry import catalog
from penstock.telemetry.families import Family

# Replicas and parts that are shown one by one; all are counted by state.
SHOWN_MAX = 512


class LineFigures(Protocol):
    """What is shown of a line."""

    @property
    def by_class(self) -> Mapping[str, int]:
        """Waiting requests of each class."""

    @property
    def length_max(self) -> int:
        """Requests that may wait."""

    @property
    def predicted_wait_s(self) -> float | None:
        """Of one who came last."""

    @property
    def permits_out(self) -> int:
        """Permits that are held."""

    @property
    def capacity(self) -> int:
        """Permits there are."""


class PartFigures(Protocol):
    """What is shown of a part."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def life(self) -> str:
        """Whether it runs."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""


def line_lines(lines: Mapping[str, LineFigures]) -> Iterator[str]:
    """The lines before the models, by model."""
    yield from catalog.QUEUE_LENGTH.lines(
        ((model, priority), length)
        for model, line in lines.items()
        for priority, length in line.by_class.items()
    )
    yield from catalog.PREDICTED_WAIT.lines(
        ((model,), line.predicted_wait_s)
        for model, line in lines.items()
        if line.predicted_wait_s is not None
    )
    for family, value_of in _LINE_GAUGES:
        yield from family.lines(((model,), value_of(line)) for model, line in lines.items())


_LINE_GAUGES: tuple[tuple[Family, Callable[[LineFigures], float]], ...] = (
    (catalog.QUEUE_LENGTH_MAX, lambda line: line.length_max),
    (catalog.PERMITS_OUT, lambda line: line.permits_out),
    (catalog.PERMITS, lambda line: line.capacity),
)


def fleet_lines(
    fleet: Fleet,
    in_flight: Mapping[str, int],
    breakers: Mapping[str, Breaker],
    models: Iterable[str],
    now_s: float,
) -> Iterator[str]:
    """The replicas.

    Args:
        in_flight: requests at each replica, by its name.
        breakers: by the replica's name; a missing one is closed.
        models: all that are configured, so that one without a replica is seen too.
        now_s: on the clock of the breakers.
    """
    counted = {
        (model, state): 0
        for model in dict.fromkeys((*models, *(one.model for one in fleet.replicas)))
        for state in State
    }
    for one in fleet.replicas:
        counted[one.model, one.state] += 1
    yield from catalog.REPLICAS.lines(((model, state.value), n) for (model, state), n in counted.items())
    shown = fleet.replicas[:SHOWN_MAX]
    yield from catalog.REPLICA_STATE.lines(((one.model, one.name, one.state.value), 1) for one in shown)
    yield from catalog.REPLICA_IN_FLIGHT.lines(
        ((one.model, one.name), in_flight.get(one.name, 0)) for one in shown
    )
    yield from catalog.BREAKER_STATE.lines(
        ((one.model, one.name, _trust(breakers.get(one.name, CLEAN), now_s)), 1) for one in shown
    )


def _trust(breaker: Breaker, now_s: float) -> str:
    """The state of a breaker; one that the next request may probe is half open, also where none comes."""
    waits = breaker.state is Trust.OPEN and now_s >= breaker.until_s
    return (Trust.HALF_OPEN if waits else breaker.state).value


def part_lines(parts: Iterable[PartFigures]) -> Iterator[str]:
    """What the supervisor says of what it runs."""
    shown = list(islice(parts, SHOWN_MAX))
    yield from catalog.PART_LIFE.lines(((part.name, part.life), 1) for part in shown)
    yield from catalog.PART_RESTARTS.lines(((part.name,), part.restarts) for part in shown)
