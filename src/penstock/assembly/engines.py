"""How this process starts engines: what is checked before, who else may, and with which environment."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from penstock.assembly.premises import Premises
from penstock.assembly.pulling import token_of
from penstock.core.config import Address, Config, ModelConfig, TracesConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.engines.hub import Hub
from penstock.engines.remote import SCHEME
from penstock.policy.restart import RestartLimits
from penstock.store.home import Home
from penstock.store.runtime import Drained, Holder, Lock, Registry
from penstock.supervisor.fit import check_fit
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import ModelKeepers
from penstock.supervisor.parts import PROBE_WITHIN_S, ReplicaPart
from penstock.supervisor.preflight import check_models
from penstock.supervisor.room import room_beside
from penstock.telemetry.gpu import detect

REPLICA_LIMITS = RestartLimits()
# A driver may hang.
MACHINE_ANSWERS_WITHIN_S = 10.0


class Engines:
    """Starts the replicas of models.

    Args:
        environ: of this process; what is left of it after the configuration goes to the engines.
        say: prints a line for the owner.
    """

    def __init__(
        self,
        loaded: Loaded,
        home: Home,
        environ: Mapping[str, str],
        client: EngineClient,
        say: Callable[[str], None],
    ) -> None:
        self.registry = Registry(home.replicas)
        self.premises = Premises(home, environ, loaded.config.models, say)
        self._home = home
        self._environ = environ
        self._client = client
        self._say = say
        self.adopt(loaded)

    def adopt(self, loaded: Loaded) -> None:
        """Starts engines by this configuration from now on."""
        self._around = self.premises.around(
            {**self._environ, **_tokens(loaded)}
        )  # they are those that it has not
        self._hub_token = self._hub_token_of(loaded)
        self._config = loaded.config
        self.premises.gpus.name(loaded.config.models)

    def _hub_token_of(self, loaded: Loaded) -> str | None:
        return token_of(None, (self._environ, _tokens(loaded)))

    def check(
        self,
        models: Sequence[ModelConfig],
        only: Callable[[ModelConfig], bool] = lambda _: True,
        by: Loaded | None = None,
    ) -> None:
        """Looks for what stands in the way of starting these models, before anything is started.

        Args:
            only: which of them are to be started.
            by: the configuration that they are to be started by; the one in force by default.

        Raises:
            PenstockError: what is wrong, a line each.
        """
        traces = traces_of_engines(by.config if by else self._config)
        for warning in check_models(models, SPECS, only, traces):
            self._say(f"warning: {warning}")
        token = self._hub_token if by is None else self._hub_token_of(by)
        check_fit(models, lambda: detect(os.environ), only, Hub(token).lacking)
        self.premises.check_gpus(models)

    async def check_aside(self, loaded: Loaded, only: Callable[[ModelConfig], bool]) -> None:
        """As `check` of a configuration that is not in force yet, while everything goes on."""
        await asyncio.to_thread(self.check, loaded.config.models, only, loaded)

    async def check_room(
        self, before: ModelConfig, after: ModelConfig, keepers: Sequence[Keeper]
    ) -> tuple[int, str]:
        """How many replicas of `after` can be started beside those of `before`, at least one; and why.

        Args:
            keepers: of the replicas of `before`.

        Raises:
            PenstockError: there is no room for one.
        """
        pids = [keeper.pid for keeper in keepers if keeper.pid is not None]
        try:
            async with asyncio.timeout(MACHINE_ANSWERS_WITHIN_S):
                room = await asyncio.to_thread(room_beside, before, after, pids, self.premises.machine)
        except TimeoutError:  # a start that fails leaves the old ones as they are
            return 1, ""
        if room.replicas == 0:
            raise PenstockError(
                f"there is no room for another replica of {after.name} beside those that run: {room.why}",
                code="no_room",
                hint="--in-place stops each replica before the one that takes its place is started"
                + (": requests get 503 with Retry-After meanwhile" if len(keepers) == 1 else ""),
            )
        return room.replicas or 1, room.why

    async def check_answers(self, model: ModelConfig) -> None:
        """Asks the servers of a model that somebody else runs.

        Raises:
            PenstockError: none of them is well.
        """
        key = model.api_key.get_secret_value() if model.api_key else ""
        path = SPECS[model.engine].health_path
        said = await asyncio.gather(*(self._answer(url, path, key) for url in model.sources))
        if all(said):
            raise PenstockError(
                f"models {model.name}: none of its URLs answers: {'; '.join(said)}", code="remote_unready"
            )

    async def _answer(self, url: str, path: str, key: str) -> str:
        """What is wrong with a server; nothing where it is well."""
        address = Address.parse(url.removeprefix(SCHEME))
        headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
        try:
            reply = await self._client.fetch(
                address, b"GET", path.encode(), headers=headers, timeout_s=PROBE_WITHIN_S
            )
        except PenstockError as error:
            return error.message
        return "" if reply.status == 200 else f"{url}{path} says {reply.status}"

    @contextmanager
    def locked(self, models: Sequence[ModelConfig], holder: Holder) -> Iterator[None]:
        """Makes this process the only one that runs these models here, and forgets what earlier ones left.

        Raises:
            PenstockError: another process runs one.
        """
        with ExitStack() as stack:
            for model in models:
                lock = Lock(
                    self._home.engine_lock(model.name),
                    f"the engine of {model.name}",
                    "stop that process first",
                )
                lock.acquire(holder)
                stack.callback(lock.release)
                self.registry.clear(model.name)
                self.premises.end_left(model.name)
            yield

    def end_left(self, models: Sequence[ModelConfig], holder: Holder) -> None:
        """Ends what earlier supervisors left of models that are not among these, but of those that somebody runs."""
        for name in sorted(self.premises.models_left() - {model.name for model in models}):
            lock = Lock(self._home.engine_lock(name))
            with suppress(PenstockError):
                lock.acquire(holder)
                self.registry.clear(name)
                self.premises.end_left(name)
                lock.release()

    def all_keepers(self, models: Sequence[ModelConfig]) -> tuple[ModelKeepers, ...]:
        """Of the replicas of all models that are started here."""
        return tuple(
            ModelKeepers(model.name, tuple(self.keepers(model, range(model.replicas))))
            for model in models
            if is_started(model)
        )

    def keepers(self, model: ModelConfig, numbers: Iterable[int]) -> Iterator[Keeper]:
        """Of the replicas of a model with these numbers; none is drained, as one of its name may have been."""
        drained = Drained(self._home.drained)
        for number in numbers:
            part = ReplicaPart(
                model,
                SPECS[model.engine],
                number,
                self.registry,
                self._client,
                time.time,
                self._config.gateway.drain_timeout_s,
                self.premises.gpus,
                traces_of_engines(self._config),
            )
            if part.name in drained():
                drained.set(part.name, drained=False)
            yield Keeper(part, self._home.log(part.name), REPLICA_LIMITS, self._around)


def traces_of_engines(config: Config) -> TracesConfig | None:
    """Where engines send spans of their own; None where they make none."""
    return config.traces if config.traces.engines else None


def is_started(model: ModelConfig) -> bool:
    """Whether Penstock starts its engine."""
    return SPECS[model.engine].launch is not None


def _tokens(loaded: Loaded) -> dict[str, str]:
    """Variables of `.env` for engines."""
    return {name: secret.get_secret_value() for name, secret in loaded.engine_environ.items()}
