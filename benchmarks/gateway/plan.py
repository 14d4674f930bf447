"""The loads each arm is put under, and how often. The full table, the minute's table, and one for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.gateway import replies
from benchmarks.gateway.client import Load

ONE_WORKER = "penstock"
TWO_WORKERS = "penstock-2"
TRACED = "penstock-traced"
TIMEOUT_FACTOR = 20


@dataclass(frozen=True, slots=True)
class Step:
    """One load.

    Args:
        key: how the tables know it.
        load: its port is filled in for each arm.
        fresh: on a process of its own, whose memory no load before it has warmed.
        share: of one core that each of the arm's processes is held to; 0 leaves them alone.
        arms: the only arms it is for; empty means all.
    """

    key: str
    load: Load
    fresh: bool = False
    share: float = 0.0
    arms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, in order, and how often."""

    steps: tuple[Step, ...]
    rounds: int

    def of(self, arm: str) -> Sequence[Step]:
        """The steps for this arm."""
        return [step for step in self.steps if not step.arms or arm in step.arms]

    def step(self, key: str) -> Step | None:
        """The step with this key, if it is part of the plan."""
        return next((step for step in self.steps if step.key == key), None)


def streams(
    connections: int, tokens: int, waves: int, *, interval_s: float = replies.INTERVAL_S, ramp_s: float = 0.0
) -> Load:
    """Streams side by side, `waves` times one after the other."""
    due_s = ramp_s + waves * tokens * interval_s
    limit_s = 10 + TIMEOUT_FACTOR * due_s
    return Load(0, connections, waves, tokens, limit_s, ramp_s=ramp_s or interval_s, interval_s=interval_s)


def plain(connections: int, until_s: float, prompt_bytes: int = 0) -> Load:
    """Plain calls, each connection's one after the other, for `until_s`."""
    return Load(0, connections, 1_000_000, 0, 30 + until_s, until_s=until_s, prompt_bytes=prompt_bytes)


FULL = Plan(
    (
        Step("first", streams(20, 3, 50)),
        Step("many", streams(200, 100, 2)),
        Step("few", streams(20, 100, 4)),
        Step("pair", streams(400, 100, 2), arms=(TWO_WORKERS,)),
        Step("plain", plain(8, 2.0)),
        Step("prompt", plain(1, 2.0, 200_000)),
        Step("body", plain(1, 2.0, 5_000_000)),
        Step("throttled", plain(256, 3.0), share=0.25, arms=(ONE_WORKER, TWO_WORKERS)),
        Step("open", streams(2_000, 12, 1, interval_s=1.0, ramp_s=2.0), fresh=True),
    ),
    rounds=3,
)
QUICK = Plan((Step("many", streams(200, 100, 1)), Step("plain", plain(8, 1.0))), rounds=3)
TINY = Plan(
    (
        Step("first", streams(4, 3, 2)),
        Step("many", streams(20, 10, 1)),
        Step("few", streams(4, 10, 1)),
        Step("pair", streams(40, 10, 1), arms=(TWO_WORKERS,)),
        Step("plain", plain(4, 0.1)),
        Step("prompt", plain(1, 0.1, 200_000)),
        Step("body", plain(1, 0.1, 5_000_000)),
        Step("throttled", plain(64, 0.4), share=0.25, arms=(ONE_WORKER, TWO_WORKERS)),
        Step("open", streams(100, 3, 1, interval_s=0.2, ramp_s=0.1), fresh=True),
    ),
    rounds=1,
)


def at(load: Load, port: int) -> Load:
    """The same load on this port."""
    return replace(load, port=port)
