"""What a load generator process and its parent say to each other: one line of JSON each, through pipes."""

from __future__ import annotations

import msgspec

from penstock.bench.load.driver import Pace
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.health import ProcessHealth
from penstock.bench.load.timeouts import Timeouts


class Job(msgspec.Struct, frozen=True, tag=True):
    """The first line to a process: all that it has to do. Never on a disk or in an argument: it holds a key.

    Args:
        hosts: where to dial; empty is the endpoint's host.
        process: its number, from 0.
        plan, spool: paths of the files to read and to write.
    """

    endpoint: Endpoint
    hosts: tuple[str, ...]
    timeouts: Timeouts
    pace: Pace
    process: int
    plan: str
    spool: str
    keep_answers: bool


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The second line: when the load starts, on the clock of `time.monotonic`."""

    zero_s: float


class Halt(msgspec.Struct, frozen=True, tag=True):
    """A later line: send nothing more, and cut off what is under way. The end of the pipe says the same."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The first line from a process: it can begin."""

    ceiling_events_per_s: float


class Report(msgspec.Struct, frozen=True, tag=True):
    """How far it is; said some times a second, and left out where nobody listens. See `health.Progress`."""

    taken: int
    sent: int
    in_flight: int
    completed: int
    failed: int
    output_tokens: int
    recent_ttft_s: list[float]
    recent_tpot_s: list[float]
    send_late_max_s: float
    cpu_share: float


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The last line: how it fared, and what ended it early, if anything did; `hint` says what to do about it."""

    health: ProcessHealth
    problem: str = ""
    hint: str = ""


Order = Begin | Halt
Word = Ready | Report | Ended
