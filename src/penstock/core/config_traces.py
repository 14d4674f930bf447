"""The schema of traces: where they are sent, and how many."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.core.config_limits import Section
from penstock.core.config_values import Duration, Flag, HeaderName, OtlpUrl, Secret, Share

TracesProtocol = Literal["http", "grpc"]


class TracesConfig(Section):
    """Traces of requests for OpenTelemetry, made from what is known of a request once it has ended.

    A client's `traceparent` is taken up, and the engine gets one of its attempt, whose spans so join the trace.
    """

    endpoint: OtlpUrl | None = Field(
        default=None,
        description="Collector that takes OTLP. Without it there are no traces, and a client's `traceparent` "
        "goes on to the engine as it is.",
        examples=["http://127.0.0.1:4318"],
    )
    protocol: TracesProtocol = Field(
        default="http",
        description="How it is spoken to. `grpc` needs `pip install penstock[otlp-grpc]`.",
        examples=["grpc"],
    )
    sample: Share = Field(default=0.05, description="Share of the requests that are traced.")
    follow_clients: Flag = Field(
        default=True, description="Trace what a client traces, and nothing that it says it does not."
    )
    headers: dict[HeaderName, Secret] = Field(
        default_factory=dict,
        max_length=16,
        description="Headers for the collector, such as its key.",
        examples=[{"x-api-key": "change-me"}],
    )
    timeout_s: Duration = Field(
        default=5.0, alias="timeout", description="Longest try to send some spans; then they are lost."
    )
