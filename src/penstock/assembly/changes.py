"""What is different between two configurations, in words, and what takes more than a reload of the gateway."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.core.config import Config, ModelConfig

# What a running engine was started with: others take its place when one of these has changed.
_OF_THE_START = ("engine", "source", "engine_args", "api_key", "gpus", "venv", "image")
# What the next start of an engine goes by.
_OF_THE_NEXT_START = ("start_timeout_s",)
# What a running gateway was started with.
_OF_THE_GATEWAY = (
    *("listen", "admin", "api_keys", "admin_key", "workers", "connections_max"),
    *("header_timeout_s", "keep_alive_s", "drain_timeout_s"),
    *("trusted_proxies", "address_requests_per_second", "address_connections_max"),
)
_OF_THE_START_SECTIONS = ("clickhouse", "idempotency", "shared", "traces", "usage")


def starts_otherwise(before: ModelConfig, after: ModelConfig) -> bool:
    """Whether a running engine of `before` is not what `after` asks for."""
    return any(name in _OF_THE_START for name in _differing(before, after))


def changes(before: Config, after: Config) -> Iterator[str]:
    """What is different, a line each."""
    old, new = ({model.name: model for model in config.models} for config in (before, after))
    yield from (f"model {name} is new" for name in new if name not in old)
    yield from (f"model {name} is gone" for name in old if name not in new)
    for name in (name for name in new if name in old):
        for key in _differing(old[name], new[name]):
            later = " (for replicas that are started from now on)" if key in _OF_THE_NEXT_START else ""
            yield f"models {name}: {_written(old[name], key)} has changed{later}"
    for key in _differing(before.gateway, after.gateway):
        later = " (takes effect when the gateway is started again)" if key in _OF_THE_GATEWAY else ""
        yield f"gateway: {_written(before.gateway, key)} has changed{later}"
    if before.tenants != after.tenants:
        yield "tenants have changed"
    for section in _OF_THE_START_SECTIONS:
        if getattr(before, section) != getattr(after, section):
            yield f"{section} has changed (takes effect when the gateway is started again)"
    if before.log != after.log:
        yield "log has changed (the exporter's when Penstock is started again)"
    if before.exporter != after.exporter:
        yield "exporter has changed (takes effect when Penstock is started again)"


def _written(section: object, name: str) -> str:
    """A key as a configuration file has it."""
    return type(section).model_fields[name].alias or name  # type: ignore[attr-defined]  # as below


def _differing(before: object, after: object) -> list[str]:
    fields = type(before).model_fields  # type: ignore[attr-defined]  # both are sections
    return [name for name in fields if getattr(before, name) != getattr(after, name)]
