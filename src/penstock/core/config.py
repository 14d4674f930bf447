"""The schema of the configuration: every key, its unit, its range and its default.

Keys are spelled as in `penstock.toml`; an attribute adds its unit (`first_token` is read as `first_token_s`).
A default is a number here and a text in the reference, which `config_reference.py` makes from this module.
Checks that need two keys belong to the later one, so that one pass finds every mistake and its place.
A key that has no effect with the chosen engine is a mistake, not a decoration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from penstock.core.address import Address
from penstock.core.config_clickhouse import ClickHouseConfig
from penstock.core.config_exporter import ExporterConfig
from penstock.core.config_limits import (
    BudgetConfig,
    IdempotencyConfig,
    PriceConfig,
    Priority,
    Section,
    SharedConfig,
    TenantConfig,
    UsageConfig,
)
from penstock.core.config_model import (
    DEMO_SOURCE,
    REPLICAS_MAX,
    EngineKind,
    ModelConfig,
    Routing,
    Timeouts,
)
from penstock.core.config_monitoring import MonitoringConfig
from penstock.core.config_traces import TracesConfig
from penstock.core.config_values import (
    Amount,
    Count,
    Duration,
    Flag,
    ListenAddress,
    Network,
    Secret,
    Size,
)

__all__ = [
    "DEMO_MODEL",
    "DEMO_SOURCE",
    "REPLICAS_MAX",
    "Address",
    "BudgetConfig",
    "ClickHouseConfig",
    "Config",
    "EngineKind",
    "ExporterConfig",
    "GatewayConfig",
    "IdempotencyConfig",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "ModelConfig",
    "PriceConfig",
    "Priority",
    "Routing",
    "SharedConfig",
    "TenantConfig",
    "Timeouts",
    "TracesConfig",
    "UsageConfig",
]

DEMO_MODEL = "penstock-demo"

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]


class GatewayConfig(Section):
    """The public API: where it listens, and how much and how long it takes from a client."""

    listen: ListenAddress = Field(
        default=Address("127.0.0.1", 8080),
        description="Address of the public API. Port 0 takes any free port.",
        examples=["0.0.0.0:8080"],
    )
    admin: ListenAddress = Field(
        default=Address("127.0.0.1", 8081),
        validate_default=True,
        description="Address of /metrics and /admin. Never make it public.",
        examples=["[::1]:8081"],
    )
    api_keys: tuple[Secret, ...] = Field(
        default=(),
        max_length=1024,
        description="Keys that clients may use, as plain text; meant for the environment. "
        "`penstock keys create` makes keys of which only a hash is stored.",
        examples=[["change-me"]],
    )
    body_max_bytes: Size = Field(default=16_000_000, alias="body_max", description="Largest request body.")
    header_timeout_s: Duration = Field(
        default=10.0, alias="header_timeout", description="Longest wait for a request's headers."
    )
    body_timeout_s: Duration = Field(
        default=30.0, alias="body_timeout", description="Longest wait for a request's body."
    )
    keep_alive_s: Duration = Field(
        default=75.0, alias="keep_alive", description="Life of an idle connection."
    )
    drain_timeout_s: Duration = Field(
        default=30.0, alias="drain_timeout", description="Time open streams have left after SIGTERM."
    )
    connections_max: Count = Field(
        default=4096, ge=1, le=1_000_000, description="Client connections open at once."
    )
    retries_max: Count = Field(
        default=2,
        ge=0,
        le=5,
        description="Attempts beyond the first, for a request without an answer so far.",
    )
    continuations_max: Count = Field(
        default=2,
        ge=0,
        le=5,
        description="How often an answer whose engine is lost amid it is continued by another.",
    )
    comment_every_s: Duration = Field(
        default=15.0, alias="comment_every", description="Silence until a stream gets a comment."
    )
    backpressure: Flag = Field(
        default=True,
        description="Turn requests away where the line is full, or the wait would be longer than it may be. "
        "Without it they wait for as long as their time limits allow.",
    )
    queue_len_max: Count = Field(
        default=1000, ge=0, le=1_000_000, description="Requests that wait in line for one model."
    )
    workers: Count = Field(
        default=1, ge=1, le=64, description="Processes that serve the public API, on one core each."
    )
    admin_key: Secret | None = Field(
        default=None,
        description="Key of the admin API. Without it, one is made for this home's own commands.",
        examples=["change-me"],
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        max_length=256,
        description="Proxies in front of the gateway, whose `X-Forwarded-For` is believed.",
        examples=[["10.0.0.0/8"]],
    )
    address_requests_per_second: Amount | None = Field(
        default=None,
        ge=0.01,
        description="Requests that one client address may make in a second.",
        examples=[50],
    )
    address_connections_max: Count | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Connections that one client address may have open.",
        examples=[100],
    )

    @field_validator("admin")
    @classmethod
    def _admin_is_elsewhere(cls, admin: Address, info: ValidationInfo) -> Address:
        listen = info.data.get("listen")
        if listen is not None and admin.overlaps(listen):
            raise ValueError(f"expected another address than gateway.listen ({listen})")
        return admin


class LogConfig(Section):
    """The log, one line for each request and each change of state, on standard error."""

    level: LogLevel = Field(default="info", description="Least severe line written.", examples=["debug"])
    format: LogFormat = Field(default="json", description="How a line is written.", examples=["console"])


class Config(Section):
    """The whole configuration; without any source it serves the bundled demo model."""

    gateway: GatewayConfig = Field(default_factory=GatewayConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    models: tuple[ModelConfig, ...] = Field(
        default=(ModelConfig(name=DEMO_MODEL, engine="llamacpp", source=DEMO_SOURCE),), max_length=64
    )
    tenants: tuple[TenantConfig, ...] = Field(default=(), max_length=1024)
    idempotency: IdempotencyConfig = Field(default_factory=IdempotencyConfig)
    shared: SharedConfig = Field(default_factory=SharedConfig)
    usage: UsageConfig = Field(default_factory=UsageConfig)
    exporter: ExporterConfig = Field(default_factory=ExporterConfig)
    monitoring: MonitoringConfig = Field(default_factory=MonitoringConfig)
    traces: TracesConfig = Field(default_factory=TracesConfig)
    clickhouse: ClickHouseConfig = Field(default_factory=ClickHouseConfig)

    @field_validator("models")
    @classmethod
    def _serves_something(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        if not models:  # said here and not by min_length, which counts a model with a mistake as absent
            raise ValueError("expected at least one model")
        return models

    @field_validator("models")
    @classmethod
    def _fallbacks_exist(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        names = [model.name for model in models]
        _refuse_unknown(
            ((at, "fallbacks", index), name, [other for other in names if other != model.name])
            for at, model in enumerate(models)
            for index, name in enumerate(model.fallbacks)
        )
        return models

    @field_validator("tenants")
    @classmethod
    def _models_exist(
        cls, tenants: tuple[TenantConfig, ...], info: ValidationInfo
    ) -> tuple[TenantConfig, ...]:
        models = info.data.get("models")
        if models is not None:
            names = [model.name for model in models]
            _refuse_unknown(
                ((at, "models", index), name, names)
                for at, tenant in enumerate(tenants)
                for index, name in enumerate(tenant.models)
            )
        return tenants

    @field_validator("exporter")
    @classmethod
    def _exporter_is_elsewhere(cls, exporter: ExporterConfig, info: ValidationInfo) -> ExporterConfig:
        gateway = info.data.get("gateway")
        for name in ("listen", "admin") if gateway is not None else ():
            if exporter.listen.overlaps(address := getattr(gateway, name)):
                raise ValueError(f"expected another listen than gateway.{name} ({address})")
        return exporter

    @field_validator("models", "tenants")
    @classmethod
    def _names_are_unique(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        mistakes = list(repeated_names(entries))
        if mistakes:
            raise PydanticCustomError("repeated", "expected unique names", {"mistakes": mistakes})
        return entries


def _refuse_unknown(uses: Iterable[tuple[tuple[int | str, ...], str, Sequence[str]]]) -> None:
    """Refuses every name, given with its path below the list, that is none of those it may be."""
    mistakes = [(path, name, tuple(known)) for path, name, known in uses if name not in known]
    if mistakes:
        raise PydanticCustomError("unknown_model", "expected names of models", {"mistakes": mistakes})


def repeated_names(entries: Sequence[object]) -> Iterator[tuple[tuple[int | str, ...], str, str]]:
    """Names and aliases that an earlier entry has already; the entries may be unchecked.

    Returns:
        For each: its path below the list, the name, and the path of its first use.
    """
    first_use: dict[str, str] = {}
    for index, entry in enumerate(entries):
        for path, name in _names_of(entry):
            here = ".".join(map(str, (index, *path)))
            if first_use.setdefault(name, here) != here:
                yield (index, *path), name, first_use[name]


def _names_of(entry: object) -> Iterator[tuple[tuple[int | str, ...], str]]:
    fields = entry if isinstance(entry, Mapping) else getattr(entry, "__dict__", {})
    aliases = fields.get("aliases")
    listed = enumerate(aliases if isinstance(aliases, list | tuple) else ())
    for path, name in ((("name",), fields.get("name")), *((("aliases", at), alias) for at, alias in listed)):
        if isinstance(name, str):
            yield path, name


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section as they are spelled in TOML."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_of(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, or None where it holds plain values; and whether it is a list."""
    is_list = get_origin(field.annotation) is tuple
    inner: Any = get_args(field.annotation)[0] if is_list else field.annotation
    return (inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None), is_list
