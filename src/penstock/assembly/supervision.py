"""The supervisor, wired: with the gateway for `up`, without one for `engine`."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from penstock.assembly.emptying import Emptying
from penstock.assembly.progress import loading_progress
from penstock.assembly.reloading import GatewayAdmin, Reloading
from penstock.core.config import Address, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.policy.restart import RestartLimits
from penstock.store.home import Home
from penstock.store.keys import KeyStore, KeyTerms, read_admin_key
from penstock.store.runtime import Drained, Holder, Lock, Registry
from penstock.supervisor.fit import check_fit
from penstock.supervisor.keeper import Keeper, Surroundings
from penstock.supervisor.loop import ModelKeepers, Supervisor
from penstock.supervisor.parts import GatewayPart, ReplicaPart, stops_within_s
from penstock.supervisor.ports import settled
from penstock.supervisor.preflight import check_addresses, check_models
from penstock.telemetry.gpu import detect
from penstock.telemetry.notify import Notifier

REPLICA_LIMITS = RestartLimits()
GATEWAY_LIMITS = RestartLimits(failed_starts_max=1)  # what stops it from starting is no accident
FIRST_KEY_NAME = "first"


class Session:
    """One run of the supervisor.

    Args:
        load: reads the configuration anew; raises ConfigError.
        environ: of this process; what is left of it after the configuration goes to the children.
        options: of the command line, that make the gateway read the same configuration.
        say: prints a line for people.
        notifier: tells a service manager how it goes.

    Raises:
        PenstockError: from its methods, before anything is started: what stands in the way.
    """

    def __init__(
        self,
        loaded: Loaded,
        load: Callable[[], Loaded],
        home: Home,
        environ: Mapping[str, str],
        options: tuple[str, ...],
        say: Callable[[str], None],
        notifier: Notifier,
    ) -> None:
        self._config = loaded.config
        self._load = load
        self._home = home
        self._options = options
        self._say = say
        self._notifier = notifier
        self._client = EngineClient()
        self._registry = Registry(self._home.replicas)
        tokens = {name: secret.get_secret_value() for name, secret in loaded.engine_environ.items()}
        self._engine_around = self._around({**tokens, **environ})
        self._gateway_around = self._around(environ)

    def run_all(self, announce: Callable[[Address, str], None]) -> int:
        """Runs every model and the gateway; returns the exit code.

        Args:
            announce: called once all models answer, with where the gateway is reached, and with the API key if
                it was made just now, else an empty string.
        """
        gateway = self._config.gateway
        check_models(self._config.models, SPECS)
        check_fit(self._config.models, lambda: detect(os.environ))
        self._home.prepare()
        with ExitStack() as stack:
            stack.enter_context(self._lock(self._holder(gateway.listen)))
            stack.enter_context(self._engine_locks(self._config.models))
            check_addresses(gateway)
            listen, admin = settled(gateway.listen), settled(gateway.admin)
            secret, shown = self._first_secret(stack)
            part = GatewayPart(
                listen.reachable(),
                self._options,
                {"PENSTOCK_GATEWAY__LISTEN": str(listen), "PENSTOCK_GATEWAY__ADMIN": str(admin)},
                gateway.drain_timeout_s,
                self._client,
            )

            def on_ready() -> None:
                announce(listen.reachable(), secret)
                shown()
                self._notifier.ready()

            async def on_reload() -> None:
                with self._notifier.reloading():
                    await reloading.run()

            async def on_stopping() -> None:
                self._notifier.stopping()

            supervisor = Supervisor(
                self._model_keepers(self._config.models),
                Keeper(part, self._home.log(part.name), GATEWAY_LIMITS, self._gateway_around),
                others_serve=any(SPECS[model.engine].launch is None for model in self._config.models),
                unready=part.readiness,
                on_waiting=self._on_waiting,
                on_ready=on_ready,
                on_stopping=on_stopping,
                on_reload=on_reload,
                say=self._say,
            )
            reloading = Reloading(
                self._config,
                self._load,
                supervisor,
                GatewayAdmin(self._client, admin.reachable(), self._admin_key),
                self._keepers,
                lambda model: stack.enter_context(self._engine_locks([model])),
                self._home,
                self._say,
            )
            return self._run(supervisor)

    def run_model(self, model: ModelConfig, out: Callable[[str], None]) -> int:
        """Runs the replicas of `model` alone; `out` gets a line for each. Returns the exit code."""
        check_models([model], SPECS)
        check_fit([model], lambda: detect(os.environ))
        self._home.prepare()
        with self._engine_locks([model]):
            models = self._model_keepers([model])
            keepers = models[0].keepers

            async def unready() -> str:
                waiting = [keeper.part.name for keeper in keepers if not keeper.became_ready.is_set()]
                return f"{', '.join(waiting)} loading" if waiting else ""

            def on_ready() -> None:
                for registration in self._registry.registrations():
                    if registration.model == model.name:
                        out(f"{registration.name} {registration.url}")
                self._notifier.ready()

            emptying = self._emptying([keeper.part.name for keeper in keepers])

            async def on_stopping() -> None:
                self._notifier.stopping()
                await emptying.run()

            supervisor = Supervisor(
                models,
                None,
                others_serve=False,
                unready=unready,
                on_waiting=self._on_waiting,
                on_ready=on_ready,
                on_stopping=on_stopping,
                say=self._say,
            )
            try:
                return self._run(supervisor)
            finally:
                emptying.undo()

    def _run(self, supervisor: Supervisor) -> int:
        async def run() -> int:
            beating = asyncio.create_task(self._notifier.beat(lambda: supervisor.summary))
            try:
                return await supervisor.run()
            finally:
                beating.cancel()
                self._client.close()

        return asyncio.run(run())

    def _emptying(self, names: Sequence[str]) -> Emptying:
        gateway = self._config.gateway
        return Emptying(
            names,
            GatewayAdmin(self._client, gateway.admin.reachable(), self._admin_key),
            Drained(self._home.drained),
            gateway.drain_timeout_s,
            self._say,
        )

    def _on_waiting(self, reason: str) -> None:
        self._notifier.starting(reason, lambda: loading_progress(self._home, self._registry))

    def _around(self, environ: Mapping[str, str]) -> Surroundings:
        return Surroundings(environ, time.monotonic, random.random, self._say)

    def _holder(self, listen: Address | None) -> Holder:
        return Holder(
            pid=os.getpid(),
            listen=f"http://{listen.reachable()}" if listen else "",
            admin=f"http://{self._config.gateway.admin.reachable()}" if listen else "",
            started_at=time.time(),
            stop_within_s=stops_within_s(self._config.gateway),
        )

    @contextmanager
    def _lock(self, holder: Holder) -> Iterator[None]:
        lock = Lock(self._home.lock)
        lock.acquire(holder)
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _engine_locks(self, models: Sequence[ModelConfig]) -> Iterator[None]:
        """Makes this process the only one that runs these models here, and forgets what earlier ones left."""
        with ExitStack() as stack:
            for model in models:
                lock = Lock(
                    self._home.engine_lock(model.name),
                    f"the engine of {model.name}",
                    "stop that process first",
                )
                lock.acquire(self._holder(None))
                stack.callback(lock.release)
                self._registry.clear(model.name)
            yield

    def _admin_key(self) -> str:
        own = self._config.gateway.admin_key
        return own.get_secret_value() if own else read_admin_key(self._home.admin_key)

    def _model_keepers(self, models: Sequence[ModelConfig]) -> tuple[ModelKeepers, ...]:
        return tuple(
            ModelKeepers(model.name, tuple(self._keepers(model, range(model.replicas))))
            for model in models
            if SPECS[model.engine].launch is not None
        )

    def _keepers(self, model: ModelConfig, numbers: Iterable[int]) -> Iterator[Keeper]:
        for number in numbers:
            part = ReplicaPart(model, SPECS[model.engine], number, self._registry, self._client, time.time)
            yield Keeper(part, self._home.log(part.name), REPLICA_LIMITS, self._engine_around)

    def _first_secret(self, stack: ExitStack) -> tuple[str, Callable[[], None]]:
        """A fresh API key where there is none at all, and what to call once its owner has seen it.

        Under a service manager there is no owner to see it, only a journal that would keep it.
        """
        store = KeyStore(self._home.keys, time.time)
        if self._config.gateway.api_keys or self._notifier.is_heard or store.list():
            return "", lambda: None
        key, secret = store.create(KeyTerms(FIRST_KEY_NAME))
        unseen = stack.enter_context(ExitStack())
        unseen.callback(store.discard, key.id)

        def shown() -> None:
            unseen.pop_all()

        return secret, shown
