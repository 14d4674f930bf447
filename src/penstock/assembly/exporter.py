"""The exporter, wired: alone, or once for `penstock metrics`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.address import Address
from penstock.core.config import Config, ExporterConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.engines.catalog import spec_of
from penstock.engines.client import EngineClient
from penstock.engines.hub_cache import cache_folder
from penstock.exporter.engines import Engines, Target
from penstock.exporter.exporter import Exporter, Sources
from penstock.exporter.listener import Listener
from penstock.exporter.notes import Notes
from penstock.exporter.owners import Owner
from penstock.exporter.pushing import Pushing
from penstock.store.home import Home
from penstock.store.runtime import Registration, Registry
from penstock.telemetry.fake_nvml import library
from penstock.telemetry.families import Gathered
from penstock.telemetry.gpu_driver import Driver
from penstock.telemetry.logs import Logger, open_log
from penstock.telemetry.notify import Notifier

if TYPE_CHECKING:
    from penstock.exporter.otlp import Push

# How late a remote engine that is new is met.
READ_CONFIGURATION_EVERY_S = 30.0


class Parts:
    """The exporter and what it needs.

    Args:
        load: reads the configuration anew; raises ConfigError.
        environ: of this process.
        fake_gpus: a file that says what GPUs tell, instead of the driver.
        log: takes what goes wrong.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Loaded],
        home: Home,
        environ: Mapping[str, str],
        fake_gpus: Path | None,
        log: Logger,
    ) -> None:
        self.client = EngineClient()
        self.driver = Driver(time.monotonic, library(fake_gpus))
        self.notes = Notes(
            lambda event, members: log.warning(event, **members),
            lambda event, members: log.info(event, **members),
            time.monotonic,
        )
        every_s = config.exporter.every_s
        replicas = _Replicas(config, load, home)
        places = {"home": home.root, "model_cache": cache_folder(environ)}
        sources = Sources(
            self.driver, places, Engines(replicas.targets, self.client, every_s), replicas.owners
        )
        self.exporter = Exporter(sources, every_s, time.monotonic, self.notes)


def run_exporter(
    config: Config,
    load: Callable[[], Loaded],
    home: Home,
    environ: Mapping[str, str],
    fake_gpus: Path | None,
    notifier: Notifier,
) -> None:
    """Runs the exporter until SIGTERM or SIGINT.

    Args:
        notifier: tells a service manager how it goes.

    Raises:
        PenstockError: its address can't be listened on, or the file of fake GPUs can't be read.
    """
    log = open_log(config.log.level, config.log.format)
    parts = Parts(config, load, home, environ, fake_gpus, log)
    asyncio.run(_serve(config.exporter, parts, log, notifier))


async def look_once(parts: Parts) -> list[Gathered]:
    """All that the exporter would show now; `parts` are not to be used again."""
    try:
        await parts.exporter.once()
    finally:
        parts.client.close()
    return parts.exporter.families()


async def _serve(config: ExporterConfig, parts: Parts, log: Logger, notifier: Notifier) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = Listener(parts.exporter.page)
    server = await _listening(listener, config.listen)
    shown = Address(config.listen.host, server.sockets[0].getsockname()[1])
    log.info("exporter_listens", address=str(shown), every_s=config.every_s)
    pushing = _pushing(config, parts)
    reading = asyncio.create_task(parts.exporter.run())
    beating = asyncio.create_task(notifier.beat(lambda: f"metrics at http://{shown}/metrics"))
    notifier.ready()
    try:
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, reading}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()  # a bug of ours is not kept quiet
    finally:
        notifier.stopping()
        beating.cancel()
        server.close()
        listener.close()
        if pushing is not None:
            pushing.stop()
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        parts.client.close()


async def _listening(listener: Listener, address: Address) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(listener, address.host, address.port)
    except OSError as error:
        raise PenstockError(
            f"exporter.listen: can't listen on {address}: {error.strerror or error}",
            code="cannot_listen",
            hint="stop what uses it, or set exporter.listen to another address",
        ) from None


def _pushing(config: ExporterConfig, parts: Parts) -> Pushing | None:
    """What pushes; None where nothing is to be pushed."""
    if config.otlp_endpoint is None:
        return None
    exporter, endpoint = parts.exporter, open_push(config.otlp_endpoint)
    pushing = Pushing(endpoint, exporter.families, config.otlp_every_s, time.monotonic, parts.notes)
    exporter.otlp_age_s = pushing.age_s
    pushing.start()
    return pushing


def open_push(endpoint: str) -> Push:
    """What pushes to an endpoint; its library is loaded for who wants it alone."""
    from penstock.exporter.otlp import Push

    return Push(endpoint)


class _Replicas:
    """The replicas whose pages are read: those registered in this home, and the remote ones of the configuration.

    The configuration is read anew now and then.
    """

    def __init__(self, config: Config, load: Callable[[], Loaded], home: Home) -> None:
        self._config = config
        self._load = load
        self._registry = Registry(home.replicas)
        self._read_s = time.monotonic()

    def targets(self) -> Iterator[Target]:
        """Where their pages are."""
        self._follow()
        models = {model.name: model for model in self._config.models}
        for entry in self._registry.registrations():
            spec = spec_of(entry.engine, models.get(entry.model))
            yield Target(entry.name, entry.model, spec, _address(entry.url), entry.api_key)
        for model in models.values():
            key = model.api_key.get_secret_value() if model.api_key else ""
            for number, url in enumerate(model.sources if model.engine == "remote" else ()):
                yield Target(
                    f"{model.name}-{number}", model.name, spec_of("remote", model), _address(url), key
                )

    def owners(self) -> list[Owner]:
        """The processes of those registered."""
        return [_owner(entry) for entry in self._registry.registrations()]

    def _follow(self) -> None:
        if time.monotonic() - self._read_s < READ_CONFIGURATION_EVERY_S:
            return
        self._read_s = time.monotonic()
        with suppress(PenstockError):  # `penstock reload` says what is wrong with it
            self._config = self._load().config


def _address(url: str) -> Address:
    return Address.parse(url.removeprefix("http://").rstrip("/"))


def _owner(entry: Registration) -> Owner:
    return Owner(entry.name, entry.model, entry.pid)
