"""A drill: something that is broken on purpose, and the alerts that must come of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.alerts.stack import Stack

Broken = AbstractContextManager[None]
PATIENCE_S = 150.0


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Drill:
    """One of them.

    Args:
        breaks: breaks it, and mends it when it is left.
        alerts: those that must fire.
        may: those that may fire beside them.
        models: those that suffer; alerts about others are not its own.
        patience_s: how long they may take.
        untold: nobody can be told as long as it is broken: that Prometheus says so is enough.
        lacks: what it would need and this machine has not; empty where it can be done.
    """

    name: str
    breaks: Callable[[Stack], Broken]
    alerts: tuple[str, ...]
    may: tuple[str, ...] = ()
    models: tuple[str, ...] = ("m",)
    patience_s: float = PATIENCE_S
    untold: bool = False
    lacks: Callable[[], str] = _nothing

    def expects(self, name: str, model: str) -> bool:
        """Whether an alert may come of it."""
        return name in {*self.alerts, *self.may} and model in {"", *self.models}

    def awaits(self, name: str, model: str) -> bool:
        """Whether it is one of those that must."""
        return name in self.alerts and model in {"", *self.models}


# Drills that follow one another; lanes of one round go on side by side, and do not touch what the others break.
Lane = tuple[Drill, ...]
Round = tuple[Lane, ...]

# What may come along with almost any trouble of engines.
BURNS = tuple(
    f"{name}Burn{speed}"
    for name in ("Availability", "Ttft", "Tpot", "E2e", "Goodput")
    for speed in ("Fast", "Slow")
)
TROUBLE = (
    *BURNS,
    *("GatewayErrorsHigh", "RetriesHigh", "CircuitOpen", "AnswersInterrupted", "ContinuationsHigh"),
    *("NoReplicaReady", "ReplicaNotReady", "EngineMissing", "EngineTargetDown", "EngineStalled"),
)
LOAD = (
    *("QueueBacklog", "QueueNearlyFull", "QueueRejections", "StreamsStalled", "PreemptionStorm"),
    *("KvCacheHigh", "KvCacheFull", "EngineQueueBacklog", "PrefixCacheCollapse", "GatewayLoopSlow"),
)
