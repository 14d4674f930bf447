"""The schema of traces: where they are sent, and how many."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from penstock.core.config_limits import Section
from penstock.core.config_values import Duration, Flag, HeaderName, OtlpUrl, Secret, Share

TracesProtocol = Literal["http", "grpc"]
HTTP_PATH = "/v1/traces"


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
    engines: Flag = Field(
        default=False,
        description="Have vLLM and SGLang, where Penstock starts them, send spans of their own to the same "
        "collector, for the requests that are traced.",
    )

    @field_validator("engines")
    @classmethod
    def _goes_somewhere(cls, engines: bool, info: ValidationInfo) -> bool:
        if engines and info.data.get("endpoint") is None:
            raise ValueError("expected traces.endpoint beside it, to which they are sent")
        return engines

    @property
    def url(self) -> str:
        """The endpoint, by HTTP with the path that it has where none is named; empty where there are no traces."""
        endpoint = self.endpoint or ""
        if not endpoint or self.protocol == "grpc":
            return endpoint
        return endpoint.rstrip("/") + ("" if urlsplit(endpoint).path.strip("/") else HTTP_PATH)
