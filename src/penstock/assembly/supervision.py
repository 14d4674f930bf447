"""The supervisor, wired: with the gateway for `up`, without one for `engine`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from penstock.assembly.admin import GatewayAdmin
from penstock.assembly.commands import Commands
from penstock.assembly.emptying import Emptying
from penstock.assembly.engines import Engines
from penstock.assembly.exporter_beside import exporter_beside
from penstock.assembly.reloading import Reloading
from penstock.assembly.rolling import Rolling
from penstock.core.config import Address, ExporterConfig, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.policy.restart import RestartLimits
from penstock.store.home import Home
from penstock.store.keys import KeyStore, KeyTerms, read_admin_key
from penstock.store.runtime import Drained, Holder, Lock, Refusal
from penstock.store.starts import Starts
from penstock.supervisor.control import Control
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loading import LoadingWatch
from penstock.supervisor.loop import Supervisor
from penstock.supervisor.parts import GatewayPart, stop_within_s
from penstock.supervisor.ports import settled
from penstock.supervisor.preflight import check_addresses
from penstock.supervisor.stalled import StalledRestarts
from penstock.telemetry.notify import Notifier

# What stops it from starting at first is no accident. Later, engines that took an hour to load wait behind it.
GATEWAY_LIMITS = RestartLimits(failed_starts_max=1, keeps_trying=True)
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
        self._loaded = loaded
        self._load = load
        self._home = home
        self._options = options
        self._say = say
        self._notifier = notifier
        self._client = EngineClient()
        self._engines = Engines(loaded, home, environ, self._client, say)
        self._gateway_around = self._engines.premises.around(environ)

    def run_all(self, announce: Callable[[Address, str], None]) -> int:
        """Runs every model and the gateway; returns the exit code.

        Args:
            announce: called once all models answer, with where the gateway is reached, and with the API key if
                it was made just now, else an empty string.
        """
        gateway = self._config.gateway
        self._engines.check(self._config.models)
        self._home.prepare()
        listen, admin = settled(gateway.listen), settled(gateway.admin)
        with ExitStack() as stack:
            stack.enter_context(self._lock(self._holder(listen, admin)))
            stack.enter_context(self._engines.locked(self._config.models, self._holder()))
            self._engines.premises.end_left("")
            self._engines.end_left(self._config.models, self._holder())
            check_addresses(gateway)
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

            async def on_stopping() -> None:
                self._notifier.stopping()

            supervisor = Supervisor(
                self._engines.all_keepers(self._config.models),
                Keeper(part, self._home.log(part.name), GATEWAY_LIMITS, self._gateway_around),
                others_serve=any(SPECS[model.engine].launch is None for model in self._config.models),
                unready=part.readiness,
                on_waiting=lambda why: self._notifier.starting(why, comes_on=bool(supervisor.down)),
                on_ready=on_ready,
                on_stopping=on_stopping,
                say=self._say,
            )
            gateway_admin = GatewayAdmin(self._client, admin.reachable(), self._admin_key)
            commands = self._commands(supervisor, gateway_admin, stack)
            control = Control(self._home.control, commands.carry_out)
            loading = self._loading(supervisor.all_keepers)
            stalled = StalledRestarts(gateway_admin.stalled, supervisor.all_keepers)
            beside = (control.run, commands.follow_hangups, loading.run, stalled.run)
            return self._run(supervisor, self._config.exporter, beside, commands.hang_up)

    def run_model(self, model: ModelConfig, out: Callable[[str], None]) -> int:
        """Runs the replicas of `model` alone; `out` gets a line for each. Returns the exit code."""
        self._engines.check([model])
        self._home.prepare()
        with self._engines.locked([model], self._holder()):
            models = self._engines.all_keepers([model])
            keepers = models[0].keepers
            loading = self._loading(lambda: keepers)

            async def unready() -> str:
                waiting = [keeper.part.name for keeper in keepers if not keeper.became_ready.is_set()]
                return "; ".join(f"{name}: {loading.how_far(name) or 'loading'}" for name in waiting)

            def on_ready() -> None:
                for registration in self._engines.registry.registrations():
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
                on_waiting=lambda why: self._notifier.starting(why, comes_on=True),
                on_ready=on_ready,
                on_stopping=on_stopping,
                say=self._say,
            )
            try:
                return self._run(supervisor, ExporterConfig(), (loading.run,))
            finally:
                emptying.undo()

    def _commands(self, supervisor: Supervisor, admin: GatewayAdmin, stack: ExitStack) -> Commands:
        """What can be asked of `supervisor`; locks of models that come later are released with `stack`."""
        rolling = Rolling(supervisor, admin, self._engines.keepers, self._home, time.monotonic)
        reloading = Reloading(
            self._loaded,
            self._load,
            supervisor,
            admin,
            rolling,
            self._engines,
            lambda model: stack.enter_context(self._engines.locked([model], self._holder())),
        )
        refusal = Refusal(self._home.refusal)
        refusal.note("")
        return Commands(
            supervisor, rolling, reloading, self._engines, self._say, self._notifier, refusal.note
        )

    def _run(
        self,
        supervisor: Supervisor,
        exporter: ExporterConfig,
        beside: Sequence[Callable[[], Coroutine[None, None, None]]] = (),
        on_hangup: Callable[[], None] | None = None,
    ) -> int:
        exporting = exporter_beside(exporter, self._options, self._home, self._gateway_around, self._client)

        def status() -> str:
            return f"waiting for {', '.join(supervisor.down)}" if supervisor.down else "all parts are up"

        async def run() -> int:
            beating = asyncio.create_task(self._notifier.beat(status))
            try:
                async with exporting:
                    return await supervisor.run(beside, on_hangup)
            finally:
                beating.cancel()
                self._client.close()

        return asyncio.run(run())

    def _loading(self, keepers: Callable[[], Iterable[Keeper]]) -> LoadingWatch:
        return LoadingWatch(keepers, Starts(self._home.starts), self._home.log, time.monotonic)

    def _emptying(self, names: Sequence[str]) -> Emptying:
        gateway = self._config.gateway
        return Emptying(
            names,
            GatewayAdmin(self._client, gateway.admin.reachable(), self._admin_key),
            Drained(self._home.drained),
            gateway.drain_timeout_s,
            self._say,
        )

    def _holder(self, listen: Address | None = None, admin: Address | None = None) -> Holder:
        return Holder(
            pid=os.getpid(),
            listen=f"http://{listen.reachable()}" if listen else "",
            admin=f"http://{admin.reachable()}" if admin else "",
            started_at=time.time(),
            stop_within_s=stop_within_s(self._config.gateway.drain_timeout_s),
        )

    @contextmanager
    def _lock(self, holder: Holder) -> Iterator[None]:
        lock = Lock(self._home.lock)
        lock.acquire(holder)
        try:
            yield
        finally:
            lock.release()

    def _admin_key(self) -> str:
        own = self._config.gateway.admin_key
        return own.get_secret_value() if own else read_admin_key(self._home.admin_key)

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
