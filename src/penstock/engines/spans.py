"""An engine's own spans: what tells it where they go, of which requests it makes them, and what is in the way.

vLLM and SGLang take the same variables, those of OpenTelemetry's SDK, and join the `traceparent` that they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote, urlsplit

from penstock.core.config import ModelConfig, TracesConfig
from penstock.engines.installation import Installation
from penstock.engines.spec import Placement

ENDPOINT = "otlp_traces_endpoint"
# Both protocols are imported, whichever is used.
PACKAGES = (
    *("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"),
    "opentelemetry-exporter-otlp-proto-http",
)
LOOPBACK = ("127.", "localhost", "::1")


def spans_of(model: ModelConfig, placement: Placement) -> TracesConfig | None:
    """Where a replica sends its spans; None where nowhere, or where its owner has said it in `engine_args`."""
    return None if ENDPOINT in model.engine_args else placement.traces


def spans_env(traces: TracesConfig, service: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an engine that sends its spans there.

    Args:
        service: what they are said to come from.
        environ: of its owner, who may choose another sampler and name.
    """
    chosen = {
        # No span but below one that is kept: none of its start, and none of a canary.
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_SERVICE_NAME": service,
    }
    headers = (f"{name}={quote(secret.get_secret_value())}" for name, secret in traces.headers.items())
    return {
        **{name: value for name, value in chosen.items() if name not in environ},
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc" if traces.protocol == "grpc" else "http/protobuf",
        **({"OTEL_EXPORTER_OTLP_TRACES_HEADERS": ",".join(headers)} if traces.headers else {}),
    }


def span_mistakes(
    model: ModelConfig, traces: TracesConfig, found: Installation | None, cure: str
) -> Iterator[str]:
    """What keeps the engine of a model from sending spans there.

    Args:
        found: where it is installed; None in a container.
        cure: the command that installs what it lacks.
    """
    host = urlsplit(traces.url).hostname or ""
    if model.image and host.startswith(LOOPBACK):
        yield (
            f"image: to a container the traces.endpoint {traces.endpoint} is the container itself; "
            "name the collector's machine, or set traces.engines to false"
        )
    lacking = [name for name in PACKAGES if found and found.distribution((name,)) is None]
    if lacking:
        yield (
            f"{'venv' if model.venv else 'engine'}: traces.engines needs {', '.join(lacking)} beside the engine; "
            f"`{cure}` in {found.folder if found else 'it'}, or set traces.engines to false"
        )
