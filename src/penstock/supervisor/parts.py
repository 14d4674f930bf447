"""What the supervisor keeps running: replicas, the gateway; each knows its command and when it is ready."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from penstock.core.config import Address, GatewayConfig, ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.client import EngineClient
from penstock.engines.spec import EngineSpec, Launch, Placement
from penstock.store.runtime import Registration, Registry
from penstock.supervisor.ports import free_port

REPLICA_HOST = "127.0.0.1"
PROBE_WITHIN_S = 2.0
REPLICA_STOP_WITHIN_S = 30.0  # vLLM finishes its requests in 20
GATEWAY_STOP_MARGIN_S = 5.0  # beyond its drain


def stops_within_s(gateway: GatewayConfig) -> float:
    """How long gateway and engines take to stop together, one after the other, at the longest."""
    return gateway.drain_timeout_s + GATEWAY_STOP_MARGIN_S + REPLICA_STOP_WITHIN_S


class Part(Protocol):
    """Something to keep running; it is told of each start and end."""

    @property
    def name(self) -> str:
        """Its name in messages and logs."""

    @property
    def stop_within_s(self) -> float:
        """How long it may take to stop."""

    def launch(self) -> Launch:
        """The command of its next start."""

    def started(self, pid: int) -> None:
        """Its process runs."""

    def ended(self) -> None:
        """Its process is gone."""

    async def is_ready(self) -> bool:
        """Whether it can do its work now."""


@dataclass(slots=True)
class ReplicaPart:
    """One replica of a model; each start gets a fresh port and a fresh key."""

    model: ModelConfig
    spec: EngineSpec
    number: int
    registry: Registry
    client: EngineClient
    now: Callable[[], float]
    _placement: Placement | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return f"{self.model.name}-{self.number}"

    @property
    def stop_within_s(self) -> float:
        return REPLICA_STOP_WITHIN_S

    def launch(self) -> Launch:
        assert self.spec.launch is not None
        own_key = self.model.api_key
        key = own_key.get_secret_value() if own_key else secrets.token_urlsafe()
        self._placement = Placement(REPLICA_HOST, free_port(REPLICA_HOST), key)
        return self.spec.launch(self.model, self._placement)

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

    @property
    def stop_within_s(self) -> float:
        return self.drain_timeout_s + GATEWAY_STOP_MARGIN_S

    def launch(self) -> Launch:
        return Launch(argv=(sys.executable, "-m", "penstock", *self.options, "gateway"), env=self.environ)

    def started(self, pid: int) -> None:
        pass

    def ended(self) -> None:
        self.client.forget(self.listen)

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
