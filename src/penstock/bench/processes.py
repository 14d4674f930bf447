"""The load generators as processes: started together, watched while they send, and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.bench.endpoint import Endpoint
from penstock.bench.health import ClientHealth, Progress
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Sample

__all__ = ["ClientHealth", "Generated", "Progress", "Timeouts", "generate"]


class Timeouts(msgspec.Struct, frozen=True):
    """How long a request may take, and how long the end of a run may.

    Args:
        connect_s: opening a connection, seconds, above 0.
        first_token_s: from sending to the first content, seconds; None leaves it to `total_s`.
        stall_s: silence after it, seconds; None leaves it to `total_s`.
        total_s: the whole request, seconds, above 0.
        drain_s: how long requests under way may go on once nothing more is sent; what is left is cut off.
    """

    connect_s: float = 10.0
    first_token_s: float | None = None
    stall_s: float | None = None
    total_s: float = 600.0
    drain_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of a load.

    Args:
        spool: the folder of the samples.
        client: how the load generators fared.
        interrupted: whether it was stopped before its end.
        started_at: start of the load, seconds since the epoch.
        wall_s: from the start to the end of the last request, seconds.
        problems: what went wrong with the load generators themselves; empty in a good run.
    """

    spool: Path
    client: ClientHealth
    interrupted: bool
    started_at: float
    wall_s: float
    problems: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """What came of each request, process by process, each in the order of their ends."""
        raise NotImplementedError


async def generate(
    endpoint: Endpoint,
    plan: Iterable[PlannedRequest],
    *,
    concurrency: int | None,
    duration_s: float | None,
    processes: int = 1,
    warmup_s: float = 0.0,
    ramp_s: float = 0.0,
    timeouts: Timeouts,
    spool: Path,
    on_progress: Callable[[Progress], None],
    stop: asyncio.Event,
) -> Generated:
    """Sends a plan and returns what came of it.

    Args:
        plan: the requests in the order of their times; read bit by bit, ahead of the load.
        concurrency: requests under way at once, 1 or more (closed loop); None sends each at its own time.
        duration_s: nothing is sent later than this, seconds; None sends the whole plan.
        processes: load generators that share the plan.
        warmup_s: requests scheduled earlier than this become stage -1.
        ramp_s: over which a closed loop opens its places, evenly.
        spool: a folder for the samples, made where it does not exist.
        on_progress: told some times a second.
        stop: ends the load early; what is under way is cut off.

    Raises:
        EndpointError: the endpoint can't be used at all.
        GeneratorError: a load generator process failed to start, or the spool can't be written.
    """
    raise NotImplementedError
