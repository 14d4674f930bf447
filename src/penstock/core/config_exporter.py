"""The schema of the exporter: the metrics of GPUs, host and engines.

The conventions are those of `config.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from penstock.core.address import Address
from penstock.core.config_limits import Section
from penstock.core.config_values import DURATION, Flag, ListenAddress, OtlpUrl
from penstock.core.units import parse_duration_s

INTERVAL = "a duration from 200ms to 10m, such as 1s or 15s"


def _interval_s(value: Any) -> float:
    try:
        interval_s = parse_duration_s(value)
    except ValueError:
        interval_s = 0.0
    if not 0.2 <= interval_s <= 600.0:
        raise ValueError(f"expected {INTERVAL}")
    return interval_s


Interval = Annotated[float, BeforeValidator(_interval_s), INTERVAL, DURATION]


class ExporterConfig(Section):
    """Metrics of GPUs, host and engines for Prometheus, by `penstock exporter`."""

    listen: ListenAddress = Field(
        default=Address("127.0.0.1", 9101),
        description="Address of its /metrics. Port 0 takes any free port.",
        examples=["0.0.0.0:9101"],
    )
    enabled: Flag = Field(default=False, description="Run it under `penstock up` too.")
    every_s: Interval = Field(default=5.0, alias="every", description="Time from one reading to the next.")
    otlp_endpoint: OtlpUrl | None = Field(
        default=None,
        description="OpenTelemetry endpoint to which the same is pushed, by OTLP over HTTP.",
        examples=["http://127.0.0.1:4318"],
    )
    otlp_every_s: Interval = Field(
        default=30.0, alias="otlp_every", description="Time from one push to the next."
    )
