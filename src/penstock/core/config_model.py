"""The schema of one model: its name, its engine, and how long each phase of a request for it may take.

The conventions are those of `config.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from penstock.core.config_limits import PriceConfig, Section
from penstock.core.config_slo import SloConfig
from penstock.core.config_values import (
    ArgName,
    ArgValue,
    Count,
    Duration,
    Flag,
    FolderPath,
    GpuIndices,
    ImageName,
    MetricName,
    Name,
    Secret,
    Source,
    UrlPath,
    is_base_url,
    is_hub_file,
)

DEMO_SOURCE = "demo"
REPLICAS_MAX = 64
STALL_S_MIN = 2.0  # the engine's steps are looked at each second

EngineKind = Literal["llamacpp", "sim", "remote", "vllm", "transformers", "sglang"]
Routing = Literal["round_robin", "least_load", "p2c", "prefix", "session"]

_NO_EFFECT = {
    ("remote", "replicas"): "which has one replica for each URL",
    ("remote", "engine_args"): "which Penstock does not start",
    ("remote", "gpus"): "which Penstock does not start",
    ("remote", "start_timeout_s"): "which Penstock does not start",
    ("llamacpp", "api_key"): "whose key Penstock makes itself",
    ("sim", "api_key"): "whose key Penstock makes itself",
}
_ONLY_WITH = {
    "venv": ("vllm", "transformers", "sglang"),
    "image": ("vllm", "sglang"),
    "health_path": ("remote",),
    "metrics": ("remote",),
}


def _source_mistake(engine: EngineKind, source: str | tuple[str, ...]) -> str:
    """What `source` should be instead, or nothing where it suits the engine."""
    entries = source if isinstance(source, tuple) else (source,)
    if engine == "remote":
        if any(entry.startswith("https://") for entry in entries):
            return (
                "http://host:port (Penstock speaks no TLS to engines: put a TLS proxy beside the gateway, "
                "and name its address)"
            )
        usable = 1 <= len(set(entries)) == len(entries) <= REPLICAS_MAX and all(map(is_base_url, entries))
        return "" if usable else f"1 to {REPLICAS_MAX} different URLs http://host:port, without a path,"
    if engine == "sim":
        return "" if source == "" else "no source"
    if isinstance(source, tuple) or not source.strip():
        return "one source"
    if engine == "llamacpp" and source != DEMO_SOURCE and not _is_gguf(source):
        return (
            f'"{DEMO_SOURCE}", the path of a .gguf file, owner/repo/file.gguf or owner/repo:Q4_K_M '
            "(weights in safetensors are for engine vllm)"
        )
    return ""


def _is_gguf(source: str) -> bool:
    return source.lower().endswith(".gguf") or is_hub_file(source)


class Timeouts(Section):
    """How long each phase of a request may take; then it ends with a 504 or an error event.

    A phase that is set must fit into `total`; one left at its default is simply cut short by it.
    """

    total_s: Duration = Field(default=600.0, alias="total", description="The whole request.")
    connect_s: Duration = Field(
        default=2.0, alias="connect", description="Opening a connection to a replica."
    )
    first_token_s: Duration = Field(
        default=60.0, alias="first_token", description="From request to first token."
    )
    stall_s: Duration = Field(default=30.0, alias="stall", description="Silence between two tokens.")
    queue_s: Duration = Field(default=30.0, alias="queue", description="Waiting in line for a replica.")

    @field_validator("connect_s", "first_token_s", "stall_s", "queue_s")
    @classmethod
    def _phase_fits(cls, phase_s: float, info: ValidationInfo) -> float:
        total_s = info.data.get("total_s")
        if total_s is not None and phase_s > total_s:
            raise ValueError(f"expected at most the total of {total_s:g}s")
        return phase_s


class Health(Section):
    """When a replica counts as stalled, and what then becomes of it."""

    stall_s: Duration | None = Field(
        default=None,
        alias="stall",
        description="Requests, and no step of the engine and no byte of an answer for so long, and the replica is "
        "stalled: its answers go on elsewhere, and it gets no more requests until it moves again. Left out, 15s "
        "where vLLM's or SGLang's metrics count steps, else 60s. It has to be longer than the longest step, 2s at "
        "least.",
        examples=["10s"],
    )
    restart: Flag = Field(
        default=True,
        description="Whether one that stays stalled is started again, where Penstock started it.",
    )
    restart_after_s: Duration = Field(
        default=120.0, alias="restart_after", description="How long it may stay stalled until then."
    )

    @field_validator("stall_s")
    @classmethod
    def _longer_than_a_look(cls, stall_s: float | None) -> float | None:
        if stall_s is not None and stall_s < STALL_S_MIN:
            raise ValueError(f"expected at least {STALL_S_MIN:g}s")
        return stall_s


class MetricNames(Section):
    """What a remote engine calls its numbers. What is left out is looked for by the names of known engines."""

    path: UrlPath = Field(default="/metrics", description="Where the page is.")
    running: MetricName | None = Field(
        default=None, description="Requests that it works on.", examples=["my_server:requests_running"]
    )
    waiting: MetricName | None = Field(
        default=None, description="Requests in its own queue.", examples=["my_server:requests_waiting"]
    )
    kv_usage: MetricName | None = Field(
        default=None, description="The used part of its KV cache, 0 to 1.", examples=["my_server:kv_usage"]
    )
    steps: MetricName | None = Field(
        default=None,
        description="A counter that grows with each step, by which a stall is told from silence.",
        examples=["my_server:steps_total"],
    )


class ModelConfig(Section):
    """One model: the name clients ask for, and the engine that serves it."""

    name: Name = Field(description="Name that clients ask for.", examples=["penstock-demo"])
    aliases: tuple[Name, ...] = Field(
        default=(), max_length=64, description="Other names for the same model.", examples=[["gpt-4o-mini"]]
    )
    engine: EngineKind = Field(description="Program that generates the tokens.", examples=["llamacpp"])
    source: Source = Field(
        default="",
        validate_default=True,
        description="What the engine serves. llamacpp: `demo` (the bundled model), a path of a .gguf, or one on the "
        "Hub: `owner/repo/file.gguf` or `owner/repo:Q4_K_M`. "
        "remote: one `http://host:port`, or a list of them, one replica each. "
        "vllm, transformers, sglang: a folder or a Hugging Face name. sim: leave it out.",
        examples=["demo"],
    )
    replicas: Count = Field(
        default=1,
        ge=1,
        le=REPLICAS_MAX,
        description="Engines to start. Leave it out with engine remote, which has one replica for each URL.",
    )
    api_key: Secret | None = Field(
        default=None,
        description="Key that the engine asks for. Not with engine llamacpp or sim; left out, each replica that "
        "Penstock starts has a key of its own.",
        examples=["change-me"],
    )
    engine_args: dict[ArgName, ArgValue] = Field(
        default_factory=dict,
        max_length=256,
        description="Options of the engine, by its own names with underscores. Not with engine remote.",
        examples=[{"n_threads": 4}],
    )
    venv: FolderPath | None = Field(
        default=None,
        description="Virtual environment that holds the engine. Only with engine vllm, transformers or sglang. "
        "Left out, PENSTOCK_VLLM_VENV (vllm), Penstock's own environment, or the PATH.",
        examples=["/opt/vllm"],
    )
    image: ImageName | None = Field(
        default=None,
        description="Container image to run the engine in, by docker or podman. Only with engine vllm or sglang.",
        examples=["vllm/vllm-openai:v0.32.0"],
    )
    health_path: UrlPath | None = Field(
        default=None,
        description="Path that says 200 when the engine can serve. Only with engine remote, where it is `/v1/models` "
        "if it is left out.",
        examples=["/health"],
    )
    metrics: MetricNames = Field(
        default_factory=MetricNames, description="Names of its metrics. Only with engine remote."
    )
    gpus: GpuIndices | None = Field(
        default=None,
        description="Indices of the GPUs that its replicas may use, as nvidia-smi numbers them; each gets as many as "
        "its engine spans, one replica after the other. A GPU that is named twice is shared by two. Left out, the "
        "free ones with the most free memory are taken; an empty list gives none.",
        examples=[[0, 1]],
    )
    start_timeout_s: Duration | None = Field(
        default=None,
        alias="start_timeout",
        description="How long a starting engine may neither write, compute nor read; then it is ended and reported. "
        "Left out, it is 30m for engines that load large models, and 5m for the others.",
        examples=["30m"],
    )
    routing: Routing = Field(
        default="least_load", description="How a replica is chosen for a request.", examples=["round_robin"]
    )
    concurrency: Count | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests that one replica holds at once; more wait in line. Left out, it is what the engine "
        "runs at once, or, for a remote one, learned from its metrics.",
        examples=[64],
    )
    fallbacks: tuple[Name, ...] = Field(
        default=(),
        max_length=8,
        description="Other models that answer, in this order, while no replica of this one is healthy.",
        examples=[["other-model"]],
    )
    hedge_after_s: Duration | None = Field(
        default=None,
        alias="hedge_after",
        description="Wait for the first byte, after which a second replica is asked as well; the first to answer "
        "is taken. Left out, none is.",
        examples=["2s"],
    )
    completion_tokens_expected: Count = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="Tokens that are reserved for the answer to a request without `max_tokens`.",
    )
    price: PriceConfig = Field(default_factory=PriceConfig, description="What its tokens cost.")
    slo: SloConfig = Field(default_factory=SloConfig, description="How good its service must be.")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="Limits of each phase of a request.")
    health: Health = Field(default_factory=Health, description="When a replica counts as stalled.")

    @property
    def sources(self) -> tuple[str, ...]:
        """`source` as a tuple; one entry for each replica with engine remote, empty without one."""
        if isinstance(self.source, tuple):
            return self.source
        return (self.source,) if self.source else ()

    @field_validator("source")
    @classmethod
    def _source_suits_engine(
        cls, source: str | tuple[str, ...], info: ValidationInfo
    ) -> str | tuple[str, ...]:
        engine = info.data.get("engine")
        wanted = "" if engine is None else _source_mistake(engine, source)
        if wanted:
            raise ValueError(f"expected {wanted} with engine {engine}")
        return source

    @field_validator(*_ONLY_WITH)
    @classmethod
    def _suits_engine(cls, value: Any, info: ValidationInfo) -> Any:
        engines = _ONLY_WITH[info.field_name or ""]
        if value not in (None, MetricNames()) and info.data.get("engine", engines[0]) not in engines:
            raise ValueError(
                f"expected nothing with engine {info.data['engine']}: it is for {_listed(engines)}"
            )
        if info.field_name == "image" and value is not None and info.data.get("venv") is not None:
            raise ValueError("expected nothing beside models.N.venv: the engine runs in one or the other")
        return value

    @field_validator("replicas", "engine_args", "api_key", "gpus", "start_timeout_s")
    @classmethod
    def _has_effect(cls, value: Any, info: ValidationInfo) -> Any:
        engine = info.data.get("engine", "")
        reason = _NO_EFFECT.get((engine, info.field_name or ""))
        if reason and value not in (None, {}):
            raise ValueError(f"expected nothing with engine {engine}, {reason}")
        return value


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
