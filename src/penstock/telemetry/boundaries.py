"""The boundaries of the gateway's histograms: a function of the configuration.

Every limit of an objective is one of them, so what part of the requests met it can be read exactly and not be guessed
between two others. They are the same for all models, and in all workers, so that histograms can be added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.core.config import ModelConfig

# Seconds: 1 ms to 10 min, the range from a gateway's own cost to the longest request.
LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
# From a fast engine's token to a stall; of gaps between tokens there is no objective, and these are all.
TOKEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Seconds, ascending, for each measure that an objective may limit."""

    ttft: tuple[float, ...] = LATENCY_S
    tpot: tuple[float, ...] = TOKEN_S
    e2e: tuple[float, ...] = LATENCY_S


def boundaries_of(models: Iterable[ModelConfig]) -> Boundaries:
    """The usual ones, and every limit of these models."""
    limits = [model.slo.limits_s for model in models]

    def with_limits(name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted({*usual, *(each[name] for each in limits if name in each)}))

    return Boundaries(
        with_limits("ttft", LATENCY_S), with_limits("tpot", TOKEN_S), with_limits("e2e", LATENCY_S)
    )
