"""What the supervisor keeps running: replicas, the gateway; each knows its command and when it is ready."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from penstock.core.config import Address, ModelConfig, TracesConfig
from penstock.core.errors import PenstockError
from penstock.engines.client import EngineClient
from penstock.engines.spec import EngineSpec, Launch, Placement
from penstock.store.runtime import Registration, Registry
from penstock.supervisor.gpus import GPU_KINDS, Gpus
from penstock.supervisor.ports import free_port

REPLICA_HOST = "127.0.0.1"
PROBE_WITHIN_S = 2.0
GATEWAY_STOP_MARGIN_S = 5.0  # beyond its drain
ENGINE_DRAIN_MARGIN_S = (
    2.0  # beyond the gateway's drain: where both are asked at once, it serves to the end of that
)
ENGINE_STOP_MARGIN_S = 10.0  # beyond its own drain: its processes let go of the GPUs
START_SILENCE_S = 300.0
START_SILENCE_LARGE_S = 1800.0  # what loads hundreds of GB, compiles, and captures graphs
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"


def engine_drain_s(gateway_drain_s: float) -> float:
    """How long an engine's requests may go on after it is asked to end, where the gateway's may so long."""
    return gateway_drain_s + ENGINE_DRAIN_MARGIN_S


def stop_within_s(gateway_drain_s: float) -> float:
    """How long everything may take to stop, the gateway first and then the engines."""
    return gateway_drain_s + GATEWAY_STOP_MARGIN_S + engine_drain_s(gateway_drain_s) + ENGINE_STOP_MARGIN_S


class Part(Protocol):
    """Something to keep running; it is told of each start and end."""

    @property
    def name(self) -> str:
        """Its name in messages and logs."""

    @property
    def model_name(self) -> str:
        """The name of its model; empty for a gateway."""

    @property
    def engine(self) -> str:
        """Its kind of engine; empty for a gateway."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that it has been given; none before its first launch."""

    @property
    def causes(self) -> tuple[tuple[str, str], ...]:
        """Patterns of its last lines, and why it ended, as in `EngineSpec`."""

    @property
    def start_silence_s(self) -> float:
        """How long its start may do nothing at all."""

    @property
    def stop_within_s(self) -> float:
        """How long it may take to stop."""

    def launch(self) -> Launch:
        """The command of its next start."""

    def started(self, pid: int) -> None:
        """Its process runs."""

    def ended(self) -> None:
        """Its process is gone."""

    def left(self) -> None:
        """It is not started again: what it was given is free for others."""

    async def is_ready(self) -> bool:
        """Whether it can do its work now."""


@dataclass(slots=True)
class ReplicaPart:
    """One replica of a model; each start gets a fresh port and a fresh key.

    Args:
        gateway_drain_s: how long the gateway lets open requests go on, which its own drain has to outlast.
        dealer: gives it its GPUs, for as long as it is kept.
        traces: where it sends spans of its own; None where it makes none.
    """

    model: ModelConfig
    spec: EngineSpec
    number: int
    registry: Registry
    client: EngineClient
    now: Callable[[], float]
    gateway_drain_s: float = 20.0
    dealer: Gpus = field(default_factory=lambda: Gpus(dict))
    traces: TracesConfig | None = None
    _placement: Placement | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return f"{self.model.name}-{self.number}"

    @property
    def model_name(self) -> str:
        return self.model.name

    @property
    def engine(self) -> str:
        return self.spec.kind

    @property
    def gpus(self) -> tuple[int, ...]:
        return (self._placement.gpus or ()) if self._placement else ()

    @property
    def causes(self) -> tuple[tuple[str, str], ...]:
        return self.spec.causes

    @property
    def start_silence_s(self) -> float:
        usual_s = START_SILENCE_LARGE_S if self.spec.kind in GPU_KINDS else START_SILENCE_S
        return self.model.start_timeout_s or usual_s

    @property
    def stop_within_s(self) -> float:
        return engine_drain_s(self.gateway_drain_s) + ENGINE_STOP_MARGIN_S

    def launch(self) -> Launch:
        assert self.spec.launch is not None
        own_key = self.model.api_key
        self._placement = Placement(
            host=REPLICA_HOST,
            port=free_port(REPLICA_HOST),
            api_key=own_key.get_secret_value() if own_key else secrets.token_urlsafe(),
            gpus=self.dealer.take(self.name, self.model),
            drain_timeout_s=engine_drain_s(self.gateway_drain_s),
            traces=self.traces,
        )
        launch = self.spec.launch(self.model, self._placement)
        if self._placement.gpus is None:
            return launch
        visible = ",".join(map(str, self._placement.gpus))
        # By bus, as NVML numbers them; CUDA's own order begins with the fastest.
        return replace(launch, env={**launch.env, VISIBLE_VARIABLE: visible, ORDER_VARIABLE: "PCI_BUS_ID"})

    def started(self, pid: int) -> None:
        assert self._placement is not None
        self.registry.register(
            Registration(
                name=self.name,
                model=self.model.name,
                engine=self.spec.kind,
                url=f"http://{Address(self._placement.host, self._placement.port)}",
                pid=pid,
                api_key=self._placement.api_key,
                started_at=self.now(),
            )
        )

    def ended(self) -> None:
        self.registry.unregister(self.name)
        if self._placement is not None:
            self.client.forget(Address(self._placement.host, self._placement.port))

    def left(self) -> None:
        self.dealer.give_back(self.name)

    async def is_ready(self) -> bool:
        assert self._placement is not None
        address = Address(self._placement.host, self._placement.port)
        try:
            reply = await self.client.fetch(
                address,
                b"GET",
                self.spec.health_path.encode(),
                headers=[(b"authorization", b"Bearer " + self._placement.api_key.encode())],
                timeout_s=PROBE_WITHIN_S,
            )
        except PenstockError:
            return False
        return reply.status == 200


@dataclass(frozen=True, slots=True)
class GatewayPart:
    """The gateway.

    Args:
        listen: where it is asked, a loopback address where it listens on all.
        options: of the command line, before the command: `--config PATH`.
        environ: variables that it gets beside ours.
        drain_timeout_s: how long it may go on after SIGTERM.
        name: one of several workers has its own; which of them answers at `listen` is the kernel's to choose.
    """

    listen: Address
    options: tuple[str, ...]
    environ: Mapping[str, str]
    drain_timeout_s: float
    client: EngineClient
    name: str = "gateway"
    model_name: str = ""
    engine: str = ""
    gpus: tuple[int, ...] = ()
    causes: tuple[tuple[str, str], ...] = ()
    start_silence_s: float = START_SILENCE_S

    @property
    def stop_within_s(self) -> float:
        return self.drain_timeout_s + GATEWAY_STOP_MARGIN_S

    def launch(self) -> Launch:
        return Launch(argv=(sys.executable, "-m", "penstock", *self.options, "gateway"), env=self.environ)

    def started(self, pid: int) -> None:
        pass

    def ended(self) -> None:
        self.client.forget(self.listen)

    def left(self) -> None:
        pass

    async def is_ready(self) -> bool:
        """Whether it listens; whether it can serve is `readiness`."""
        try:
            reply = await self.client.fetch(self.listen, b"GET", b"/health", timeout_s=PROBE_WITHIN_S)
        except PenstockError:
            return False
        return reply.status == 200

    async def readiness(self) -> str:
        """Why it can't serve yet; empty when it can."""
        return await readiness(self.client, self.listen)


async def readiness(client: EngineClient, listen: Address) -> str:
    """Why the gateway at `listen` can't serve; empty when it can."""
    try:
        reply = await client.fetch(listen, b"GET", b"/ready", timeout_s=PROBE_WITHIN_S)
    except PenstockError:
        return "the gateway does not answer"
    return "" if reply.status == 200 else _reason(reply.body)


def _reason(body: bytes) -> str:
    """What the answer of `/ready` names: each model that is not ready, and why."""
    try:
        reasons = json.loads(body)["reasons"].items()
    except (ValueError, LookupError, AttributeError, TypeError):
        reasons = ()
    return "; ".join(f"{name}: {reason}" for name, reason in reasons) or "the gateway does not say why"
