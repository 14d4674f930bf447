"""A supervisor of scripts, and a gateway that sees of them what a test says."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.assembly.admin import GatewayAdmin, SeenFleet, SeenReplica
from penstock.assembly.engines import Engines
from penstock.assembly.reloading import Reloading
from penstock.assembly.rolling import Rolling
from penstock.core.config import Config, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.store.home import Home
from penstock.store.runtime import Drained
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import ModelKeepers, Supervisor
from tests.supervisor.parts import SERVE, WITHIN_S, Said, ScriptPart, keeper


def model(name: str = "a", replicas: int = 1, **arguments: object) -> ModelConfig:
    """A model whose argument `seed` says what its replicas do: the scripts of a stage."""
    return ModelConfig(name=name, engine="sim", replicas=replicas, engine_args=arguments)


@dataclass
class Told:
    """Steps that were told, as `about: text`."""

    steps: list[str] = field(default_factory=list)

    def __call__(self, about: str, text: str) -> None:
        self.steps.append(f"{about}: {text}")


class FakeGateway(GatewayAdmin):
    """Calls a replica ready that is up and not drained; holds requests as a test says."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.in_flight: dict[str, int] = {}
        self.elsewhere: tuple[str, ...] = ()
        self.silent = False
        self.refuses = ""
        self.reloads = 0

    async def fleet(self) -> SeenFleet:
        if self.silent:
            raise PenstockError("the gateway does not answer")
        drained = Drained(self._stage.home.drained)()
        running = (one for known in self._stage.supervisor.models for one in known.keepers)
        leaving = (one for one in self._stage.all if one.pid is not None)
        seen = {
            one.part.name: SeenReplica(
                "a",
                "ready",
                "",
                self.in_flight.get(one.part.name, 0),
                int(one.became_ready.is_set() and one.part.name not in drained),
            )
            for one in (*running, *leaving)
        }
        remote = {name: SeenReplica("a", "ready", "", 0, 1) for name in self.elsewhere}
        return SeenFleet(1, {**remote, **seen})

    async def reload(self) -> None:
        self.reloads += 1
        if self.refuses:
            raise PenstockError(self.refuses)


class FakeEngines(Engines):
    """Makes keepers of scripts; has room for `room` more replicas."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.room = 64
        self.adopted: list[Loaded] = []
        self.checked: list[Loaded] = []

    def adopt(self, loaded: Loaded) -> None:
        self.adopted.append(loaded)

    async def check_aside(self, loaded: Loaded, only: object) -> None:
        self.checked.append(loaded)  # nothing is ever wrong

    async def check_room(self, before: ModelConfig, after: ModelConfig, keepers: object) -> tuple[int, str]:
        if not self.room:
            raise PenstockError("there is no room", code="no_room")
        return self.room, ""

    def keepers(self, model: ModelConfig, numbers: Iterable[int]) -> Iterator[Keeper]:
        return self._stage.keepers(model, numbers)


@dataclass
class Stage:
    """Runs replicas of `models`; a replica does what `scripts` has for the seed of its model."""

    folder: Path
    models: tuple[ModelConfig, ...] = (model(),)
    scripts: Mapping[int, str] = field(default_factory=dict)
    said: Said = field(default_factory=Said)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "home")
        self.home.prepare()
        self.all: list[Keeper] = []
        self.most_running = 0
        self.told = Told()
        self.gateway = FakeGateway(self)
        self.engines = FakeEngines(self)
        self.loaded = Loaded(Config(models=self.models))
        self.supervisor = Supervisor(
            [
                ModelKeepers(one.name, tuple(self.keepers(one, range(one.replicas))))
                for one in self.models
                if one.engine != "remote"
            ],
            None,
            others_serve=False,
            unready=self._unready,
            on_ready=lambda: self._ready.set(),
            say=self.said,
        )
        self.rolling = Rolling(self.supervisor, self.gateway, self.engines.keepers, self.home, time.monotonic)
        self.reloading = Reloading(
            self.loaded,
            lambda: self.loaded,
            self.supervisor,
            self.gateway,
            self.rolling,
            self.engines,
            lambda _: None,
        )

    def run(self, scene: Callable[[], Awaitable[None]]) -> None:
        """Plays `scene` once all is up, and stops everything."""

        async def play() -> None:
            self._ready = asyncio.Event()
            async with asyncio.timeout(WITHIN_S):
                running = asyncio.create_task(self.supervisor.run())
                await self._ready.wait()
                try:
                    with self.supervisor.changing():
                        await scene()
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
                    await running

        asyncio.run(play())

    def keepers(self, model: ModelConfig, numbers: Iterable[int]) -> Iterator[Keeper]:
        for number in numbers:
            script = self.scripts.get(int(str(model.engine_args.get("seed", 0))), SERVE)
            part = ScriptPart(
                f"{model.name}-{number}", self.folder, script, events=self.events, on_event=self._count
            )
            self.all.append(keeper(part, self.said))
            yield self.all[-1]

    def names(self) -> list[str]:
        """Of the replicas that serve."""
        return [one.part.name for known in self.supervisor.models for one in known.keepers]

    def of(self, name: str) -> tuple[Keeper, ...]:
        return self.supervisor.keepers(name)

    def _count(self, _event: str) -> None:
        self.most_running = max(self.most_running, sum(one.pid is not None for one in self.all))

    async def _unready(self) -> str:
        return "" if all(one.became_ready.is_set() for one in self.all) else "loading"
