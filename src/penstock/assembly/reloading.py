"""Following a changed configuration while everything runs: add first, then tell the gateway, then take away.

A replica that goes is drained before it is stopped. What starts an engine is not changed while it runs: that
takes a restart, and is said.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from penstock.core.config import Address, Config, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import EngineError, PenstockError
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.store.home import Home
from penstock.store.runtime import Drained, Reload, write_reload
from penstock.supervisor.fit import check_fit
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import ModelKeepers, Supervisor
from penstock.supervisor.preflight import check_models
from penstock.telemetry.gpu import detect

ASK_WITHIN_S = 10.0
IDLE_LOOK_EVERY_S = 0.1

# What a running engine was started with.
_OF_THE_START = ("engine", "source", "engine_args", "api_key")
# What a running gateway was started with.
_OF_THE_GATEWAY = (
    *("listen", "admin", "api_keys", "admin_key", "workers", "connections_max"),
    *("header_timeout_s", "keep_alive_s", "drain_timeout_s"),
    *("trusted_proxies", "address_requests_per_second", "address_connections_max"),
)
_OF_THE_START_SECTIONS = ("log", "idempotency", "shared", "usage")


class GatewayAdmin:
    """The gateway's admin API, for the supervisor."""

    def __init__(self, client: EngineClient, address: Address, key: Callable[[], str]) -> None:
        self._client = client
        self._address = address
        self._key = key

    async def reload(self) -> None:
        """Makes the gateway read its configuration anew.

        Raises:
            PenstockError: it does not answer, or refuses.
        """
        await self._ask(b"POST", "/admin/reload")

    async def in_flight(self, names: Collection[str]) -> int:
        """Requests that these replicas have; one at least for each that may still be given some."""
        replicas = (await self._ask(b"GET", "/admin/fleet")).get("replicas", [])
        return sum(max(one["in_flight"], one["state"] == "ready") for one in replicas if one["name"] in names)

    async def drain(self, name: str) -> None:
        """Gives a replica no more requests."""
        await self._ask(b"POST", f"/admin/replicas/{quote(name, safe='')}/drain")

    async def empty(self, names: Collection[str], within_s: float) -> None:
        """Gives these replicas no more requests, and returns when they have none.

        Raises:
            TimeoutError: they still have some.
            PenstockError: the gateway does not answer, or does not know one.
        """
        async with asyncio.timeout(within_s):
            for name in names:  # one after the other: each changes the same file
                await self.drain(name)
            # ASYNC110 sees a wait for a condition; it is another process that knows it
            while await self.in_flight(names):  # noqa: ASYNC110
                await asyncio.sleep(IDLE_LOOK_EVERY_S)

    async def _ask(self, method: bytes, path: str) -> dict[str, Any]:
        headers = [(b"authorization", b"Bearer " + self._key().encode())]
        try:
            reply = await self._client.fetch(
                self._address, method, path.encode(), headers=headers, timeout_s=ASK_WITHIN_S
            )
        except EngineError as error:  # of this client: it is the gateway that does not answer
            raise PenstockError(f"the gateway does not answer: {error.message}", code="not_running") from None
        if reply.status != 200:
            raise PenstockError(f"the gateway refuses: {reply.body.decode(errors='replace')[:500]}")
        answer: dict[str, Any] = msgspec.json.decode(reply.body)
        return answer


class Reloading:
    """Follows the configuration when it is asked to.

    Args:
        config: what runs now.
        keepers: makes the keepers of a model's replicas with these numbers.
        lock: makes this process the only one that runs a model here.
        say: prints a line for the owner.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Loaded],
        supervisor: Supervisor,
        gateway: GatewayAdmin,
        keepers: Callable[[ModelConfig, Iterable[int]], Iterator[Keeper]],
        lock: Callable[[ModelConfig], object],
        home: Home,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._load = load
        self._supervisor = supervisor
        self._gateway = gateway
        self._keepers = keepers
        self._lock = lock
        self._locked = {model.name for model in config.models}
        self._home = home
        self._say = say

    async def run(self) -> None:
        """One reload; what became of it is said, and left for whoever asked."""
        try:
            config = self._load().config
            new = [model for model in config.models if self._is_new(model)]
            check_models(new, SPECS)
            check_fit(new, lambda: detect(os.environ))
            changes = await self._follow(config)
        except PenstockError as error:
            self._say(f"reload refused, nothing has changed: {error.message}")
            write_reload(self._home.reloaded, Reload(error=error.message))
            return
        for line in changes:
            self._say(f"reload: {line}")
        write_reload(self._home.reloaded, Reload(changes=tuple(changes)))

    def _is_new(self, model: ModelConfig) -> bool:
        return all(model.name != one.name for one in self._config.models)

    async def _follow(self, config: Config) -> list[str]:
        running = self._supervisor.models
        wanted = tuple(self._wanted(config))
        self._supervisor.set_models(wanted)
        try:
            await self._gateway.reload()
        except PenstockError:
            self._supervisor.set_models(running)
            for keeper in _left_out(wanted, running):
                await self._supervisor.retire(keeper)
            raise
        for keeper in _left_out(running, wanted):
            asyncio.get_running_loop().create_task(self._leave(keeper, config.gateway.drain_timeout_s))
        before, self._config = self._config, config
        return [*_changes(before, config)]

    def _wanted(self, config: Config) -> Iterator[ModelKeepers]:
        """Keepers for every model; those that run already are kept."""
        running = {model.model: model.keepers for model in self._supervisor.models}
        for model in config.models:
            if SPECS[model.engine].launch is None:
                continue
            if model.name not in self._locked:
                self._lock(model)
                self._locked.add(model.name)
            kept = running.get(model.name, ())[: model.replicas]
            taken = self._supervisor.names
            free = (number for number in itertools.count() if f"{model.name}-{number}" not in taken)
            fresh = self._keepers(model, itertools.islice(free, model.replicas - len(kept)))
            yield ModelKeepers(model.name, (*kept, *fresh))

    async def _leave(self, keeper: Keeper, within_s: float) -> None:
        """Drains a replica, and stops it."""
        name = keeper.part.name
        try:
            await self._gateway.empty((name,), within_s)
        except (TimeoutError, PenstockError) as error:
            self._say(f"{name} is stopped before it is drained: {error or 'its requests take too long'}")
        await self._supervisor.retire(keeper)
        Drained(self._home.drained).set(name, drained=False)
        self._say(f"{name}: drained and stopped")


def _left_out(models: Iterable[ModelKeepers], of: Iterable[ModelKeepers]) -> list[Keeper]:
    """The keepers of `models` that are none of those of `of`."""
    kept = {keeper for model in of for keeper in model.keepers}
    return [keeper for model in models for keeper in model.keepers if keeper not in kept]


def _changes(before: Config, after: Config) -> Iterator[str]:
    """What is different, in words."""
    old, new = ({model.name: model for model in config.models} for config in (before, after))
    yield from (f"model {name} is new" for name in new if name not in old)
    yield from (f"model {name} is gone" for name in old if name not in new)
    for name in old.keys() & new.keys():
        for key in _differing(old[name], new[name]):
            later = " (takes effect when the engine is started again)" if key in _OF_THE_START else ""
            yield f"models {name}: {key} has changed{later}"
    for key in _differing(before.gateway, after.gateway):
        later = " (takes effect when the gateway is started again)" if key in _OF_THE_GATEWAY else ""
        yield f"gateway: {key} has changed{later}"
    if before.tenants != after.tenants:
        yield "tenants have changed"
    for section in _OF_THE_START_SECTIONS:
        if getattr(before, section) != getattr(after, section):
            yield f"{section} has changed (takes effect when the gateway is started again)"


def _differing(before: object, after: object) -> list[str]:
    fields = type(before).model_fields  # type: ignore[attr-defined]  # both are sections
    return [name for name in fields if getattr(before, name) != getattr(after, name)]
