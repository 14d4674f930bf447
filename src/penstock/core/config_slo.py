"""The schema of a model's service level objectives: what part of its requests must be how good.

One section drives the gateway's counters and histogram boundaries, the recording rules, the alerts and load tests.
The conventions are those of `config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from penstock.core.config_limits import Section
from penstock.core.config_values import Duration, Percent

# What a latency objective is called, in the configuration and as a label; `goodput` is all of them at once.
LATENCIES = ("ttft", "tpot", "e2e")
AVAILABILITY = "availability"
GOODPUT = "goodput"


def _under(example: str) -> Any:
    text = "Time that a request may take. Left out, there is no such objective."
    return Field(default=None, alias="under", description=text, examples=[example])


class LatencyObjective(Section):
    """So many percent of the requests stay under a time."""

    under_s: Duration | None = _under("1s")
    p: Percent = Field(default=95.0, description="Requests that must, in percent.")

    @field_validator("p")
    @classmethod
    def _is_of_something(cls, p: float, info: ValidationInfo) -> float:
        if info.data.get("under_s", 0.0) is None:
            raise ValueError("expected `under` beside it: the time that so many requests must stay under")
        return p


class TtftObjective(LatencyObjective):
    """From the arrival of a streamed request to its first token."""

    under_s: Duration | None = _under("500ms")


class TpotObjective(LatencyObjective):
    """Time per token after the first one, the mean of each streamed request."""

    under_s: Duration | None = _under("50ms")


class E2eObjective(LatencyObjective):
    """Whole requests that came to their end."""

    under_s: Duration | None = _under("30s")


class SloConfig(Section):
    """Service level objectives of the model, measured at the gateway over 30 days; `penstock render prometheus`
    makes alerts of them, and `penstock bench run --slo config` judges by the same limits.
    """

    availability: Percent | None = Field(
        default=None,
        description="Requests that must not fail by fault of the gateway or an engine, in percent.",
        examples=[99.9],
    )
    goodput: Percent | None = Field(
        default=None,
        description="Requests that must not fail and must stay under every time below, in percent.",
        examples=[95],
    )
    ttft: TtftObjective = Field(
        default_factory=TtftObjective, description="Time to the first token of a stream."
    )
    tpot: TpotObjective = Field(default_factory=TpotObjective, description="Time per further token.")
    e2e: E2eObjective = Field(default_factory=E2eObjective, description="Time of a whole request.")

    @property
    def limits_s(self) -> Mapping[str, float]:
        """Seconds that a good request stays under, by the names in `LATENCIES`."""
        limits = {"ttft": self.ttft.under_s, "tpot": self.tpot.under_s, "e2e": self.e2e.under_s}
        return {name: limit_s for name, limit_s in limits.items() if limit_s is not None}

    @property
    def targets(self) -> Mapping[str, float]:
        """What part of the requests must be good, above 0 and below 1, by objective."""
        percents = {
            AVAILABILITY: self.availability,
            GOODPUT: self.goodput,
            **{name: getattr(self, name).p for name in self.limits_s},
        }
        return {name: percent / 100 for name, percent in percents.items() if percent is not None}
