"""Following a changed configuration while everything runs: add first, then tell the gateway, then take away.

Where an engine would be started otherwise now, others take its place (`rolling.py`). What can't be followed is refused
whole, and what was done for it is undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from penstock.assembly.admin import GatewayAdmin
from penstock.assembly.changes import changes, starts_otherwise
from penstock.assembly.engines import Engines, is_started
from penstock.assembly.rolling import Rolling, Way
from penstock.core.config import Config, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.supervisor.control import READY_WITHIN_S, Tell
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import Supervisor

# For replicas that somebody else runs, and that have just answered.
SERVED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class _Swap:
    """A model whose replicas others take the place of; `old` are its keepers before."""

    before: ModelConfig
    after: ModelConfig
    old: tuple[Keeper, ...]
    way: Way


class Reloading:
    """Follows the configuration; `loaded` is the one in force.

    Args:
        load: reads it anew; raises ConfigError.
        lock: makes this process the only one that runs a model here, in a thread; raises PenstockError.
    """

    def __init__(
        self,
        loaded: Loaded,
        load: Callable[[], Loaded],
        supervisor: Supervisor,
        gateway: GatewayAdmin,
        rolling: Rolling,
        engines: Engines,
        lock: Callable[[ModelConfig], object],
    ) -> None:
        self.loaded = loaded
        self._followed = loaded
        self._load = load
        self._supervisor = supervisor
        self._gateway = gateway
        self._rolling = rolling
        self._engines = engines
        self._lock = lock
        self._locked = {model.name for model in loaded.config.models}
        # Those of before among them: a reload that could not take one away leaves that to the next one.
        self._known: dict[str, ModelConfig] = {}

    @property
    def models(self) -> dict[str, ModelConfig]:
        """Those in force, by name."""
        return {model.name: model for model in self.loaded.config.models}

    def is_outdated(self) -> bool:
        """Whether the configuration is another now than the one that was followed last.

        Raises:
            PenstockError: it has mistakes.
        """
        return self._load() != self._followed

    async def run(self, *, in_place: bool, ready_within_s: float, tell: Tell) -> str:
        """One reload; returns what came of it.

        Raises:
            PenstockError: the configuration has mistakes or can't be followed; everything is as it was.
        """
        loaded, before = self._load(), self.loaded
        self._followed = loaded
        config = loaded.config
        self._known.update(self.models)
        await self._engines.check_aside(loaded, self._is_to_start)
        swaps = [
            await self._swap(model, in_place, ready_within_s, tell)
            for model in config.models
            if self._is_swapped(model)
        ]
        for model in config.models:
            if model.name in self.models and is_started(self.models[model.name]) and not is_started(model):
                await self._engines.check_answers(model)
        told = list(changes(before.config, config))
        for line in told:
            tell("", line)
        for model in config.models:
            if is_started(model) and model.name not in self._locked:
                await self._rolling.whole(self._take(model))
        self._engines.adopt(loaded)
        try:
            for swap in swaps:
                await self._rolling.replace(
                    swap.old, swap.after, swap.after.replicas, swap.way, tell, await self._run_elsewhere()
                )
            await self._follow(config)
        except BaseException:
            self._engines.adopt(before)
            await self._rolling.whole(self._undo(swaps, tell))
            raise
        self.loaded = loaded
        await self._take_away(config, tell)
        return "the new configuration is in force" if told else "nothing has changed"

    async def _take(self, model: ModelConfig) -> None:
        """Locks it, aside: what an earlier supervisor left of it may take half a minute to end."""
        await asyncio.to_thread(self._lock, model)
        self._locked.add(model.name)

    def _is_to_start(self, model: ModelConfig) -> bool:
        before = self.models.get(model.name)
        return before is None or starts_otherwise(before, model)

    def _is_swapped(self, model: ModelConfig) -> bool:
        return is_started(model) and model.name in self.models and self._is_to_start(model)

    async def _swap(self, after: ModelConfig, in_place: bool, ready_within_s: float, tell: Tell) -> _Swap:
        before, old = self.models[after.name], self._supervisor.keepers(after.name)
        at_once = 0
        if not in_place:
            at_once, why = await self._engines.check_room(before, after, old)
            if why:
                tell(after.name, why)
        requests_within_s = max(before.timeouts.total_s, after.timeouts.total_s)
        return _Swap(before, after, old, Way(at_once, ready_within_s, requests_within_s))

    async def _run_elsewhere(self) -> set[str]:
        """The names of replicas that Penstock does not start, and of those that the gateway has yet to forget."""
        fleet = await self._gateway.fleet()
        return set(fleet.replicas) - self._supervisor.names

    async def _follow(self, config: Config) -> None:
        """Starts what is missing, and tells the gateway; on failure what was started is stopped again."""
        fresh = {
            model.name: self._rolling.start(model, missing)
            for model in config.models
            if is_started(model)
            and (missing := model.replicas - len(self._supervisor.keepers(model.name))) > 0
        }
        try:
            await self._gateway.reload()
        except BaseException:
            for name, keepers in fresh.items():
                await self._rolling.whole(self._rolling.discard(name, keepers))
            raise

    async def _take_away(self, after: Config, tell: Tell) -> None:
        """Lets the replicas leave that are too many now."""
        wanted = {model.name: model for model in after.models}
        known = self._known.values()
        await asyncio.gather(*(self._leave(model, wanted.get(model.name), tell) for model in known))

    async def _leave(self, before: ModelConfig, after: ModelConfig | None, tell: Tell) -> None:
        keepers, requests_within_s = self._supervisor.keepers(before.name), before.timeouts.total_s
        if after is not None and is_started(after):
            await self._rolling.leave(before.name, keepers[after.replicas :], requests_within_s, tell)
            return
        if after is not None and keepers:  # somebody else runs it now
            names = [keeper.part.name for keeper in keepers]
            await self._rolling.until_served(before.name, names, SERVED_WITHIN_S, tell)
        await self._rolling.leave(before.name, keepers, requests_within_s, tell)

    async def _undo(self, swaps: Sequence[_Swap], tell: Tell) -> None:
        """Puts the replicas of before in the place of those that took theirs."""
        for swap in swaps:
            now = self._supervisor.keepers(swap.before.name)
            fresh = [keeper for keeper in now if keeper not in swap.old]
            missing = len(swap.old) - (len(now) - len(fresh))
            if not fresh and not missing:
                continue
            tell(swap.before.name, "putting back the replicas of before")
            way = replace(swap.way, ready_within_s=max(READY_WITHIN_S, swap.way.ready_within_s))
            try:
                await self._rolling.replace(fresh, swap.before, missing, way, tell)
            except PenstockError as error:
                tell(swap.before.name, f"can't be put back as it was: {error.message}")
