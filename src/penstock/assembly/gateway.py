"""The gateway, wired."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import uvloop
from prometheus_client import disable_created_metrics

from penstock.assembly.workers import Worker
from penstock.core.config import Config
from penstock.core.config_sources import ConfigError, Loaded
from penstock.core.errors import ClientError, PenstockError
from penstock.core.record import RequestRecord
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.gateway.addresses import client_addresses
from penstock.gateway.admin import build_admin
from penstock.gateway.api import build_api
from penstock.gateway.attempts import Attempts
from penstock.gateway.charges import Charges
from penstock.gateway.inference import Inference
from penstock.gateway.lines import Lines
from penstock.gateway.overview import Overview
from penstock.gateway.permits import Permits, known_permits
from penstock.gateway.replicas import Replicas, replica_of
from penstock.gateway.server import Front, GatewayServer
from penstock.gateway.settings import Settings
from penstock.policy.fleet import Replica
from penstock.store.board import Board, Post
from penstock.store.home import Home
from penstock.store.journal import Journal
from penstock.store.keys import KeyRing, make_admin_key
from penstock.store.limits import LimitStore, LocalLimits
from penstock.store.limits_redis import RedisLimits
from penstock.store.limits_shared import SharedLimits
from penstock.store.runtime import Drained, Registry
from penstock.telemetry.logs import Logger, RequestLog, open_log
from penstock.telemetry.metrics import Metrics
from penstock.telemetry.together import together

# How often a worker tells the others of itself.
POST_EVERY_S = 0.5
TEND_EVERY_S = 1.0


def run_gateway(config: Config, load: Callable[[], Loaded], home: Home, worker: Worker) -> None:
    """Runs the gateway until it is told to stop and has drained.

    Args:
        load: reads the configuration anew; raises ConfigError.
        worker: which of several this one is.

    Raises:
        PenstockError: an address can't be listened on, or the keys can't be read.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_gateway(config, load, home, worker))


async def _gateway(config: Config, load: Callable[[], Loaded], home: Home, worker: Worker) -> None:
    # a second series for every counter, that nobody asks for; the library does not type this call
    disable_created_metrics()  # type: ignore[no-untyped-call]
    gateway = _Gateway(config, load, home, worker)
    try:
        await gateway.run()
    finally:
        await gateway.close()


class _Gateway:
    """Every part of one gateway process."""

    def __init__(self, config: Config, load: Callable[[], Loaded], home: Home, worker: Worker) -> None:
        self._home = home
        self._worker = worker
        self._log = open_log(config.log.level, config.log.format)
        self._request_log = RequestLog(self._log, config.log.format, asyncio.get_running_loop().call_later)
        self._settings = Settings(config)
        self._client = EngineClient()
        self._keys = self._key_ring(config)
        self._limits = self._limit_store(config)
        self._journal = self._open_journal(config)
        self._replicas, self._lines, self._permits = self._fleet()
        self._inference = Inference(
            self._settings,
            self._keys,
            Charges(self._limits, self._journal),
            self._lines,
            Attempts(config.gateway, self._replicas, self._client, time.monotonic),
            time.monotonic,
            self._finish,
            self._on_bug,
        )
        self._metrics = Metrics(lambda: self._replicas.fleet, lambda: self._inference.in_progress)
        self._board = Board(home.workers, worker.number)
        self._overview = self._look()
        self._reload = _Reload(self._settings, load, self._lines, worker, self._log)
        self._server = self._listeners(config)

    async def run(self) -> None:
        """Serves until it is told to stop and has drained."""
        await self._seed_spend()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload.signalled)
        beside = [self._replicas.run(), self._permits.run(), self._tend()]
        if self._worker.count > 1:
            beside.append(self._post())
        tasks = [asyncio.create_task(work) for work in beside]
        try:
            await self._server.run(reuse_port=self._worker.count > 1)
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Gives back what it holds."""
        self._board.leave()
        self._client.close()
        self._journal.close()
        await self._limits.close()
        self._request_log.flush()

    # -- parts ----------------------------------------------------------------------------------------

    def _key_ring(self, config: Config) -> KeyRing:
        return KeyRing(
            self._home.keys,
            [key.get_secret_value() for key in config.gateway.api_keys],
            time.monotonic,
            time.time,
            self._on_problem,
        )

    def _limit_store(self, config: Config) -> LimitStore:
        """For one process, for the workers of this machine, or for all gateways that share a Redis."""
        several = self._worker.count > 1
        here: LimitStore = (
            SharedLimits(self._home.limits, self._worker.number, time.time)
            if several
            else LocalLimits(time.time)
        )
        shared = config.shared
        if shared.redis is None:
            return here
        return RedisLimits(
            shared.redis.get_secret_value(),
            shared.prefix,
            time.time,
            here,
            shared.timeout_s,
            self._on_redis,
        )

    def _open_journal(self, config: Config) -> Journal:
        return Journal(
            self._home.journal,
            time.time,
            sync=config.usage.journal_sync,
            on_failure=config.usage.on_journal_failure,
            on_problem=self._on_problem,
            on_recovered=lambda kept: self._log.info("journal works again", kept_lines=kept),
        )

    def _fleet(self) -> tuple[Replicas, Lines, Permits]:
        replicas = Replicas(
            _KnownReplicas(self._settings, self._home),
            Drained(self._home.drained),
            SPECS.__getitem__,
            self._client,
            self._on_change,
            self._on_bug,
        )
        permits = Permits(
            lambda: replicas.fleet,
            replicas.in_flight,
            self._client,
            self._known_permits,
            time.monotonic,
            self._on_bug,
        )
        lines = Lines(
            self._settings,
            replicas,
            lambda replica: permits.concurrency(replica.name),
            workers=self._worker.count,
            clock=time.monotonic,
        )
        return replicas, lines, permits

    def _known_permits(self, model: str) -> int | None:
        """What is set for a model's replicas, or known of their engine."""
        found = self._settings.models.get(model)
        if found is None:
            return None
        return found.concurrency or known_permits(found)

    def _look(self) -> Overview:
        return Overview(
            self._settings,
            self._replicas,
            self._lines,
            self._limits,
            self._keys,
            in_progress=lambda: self._inference.in_progress,
            draining=lambda: self._inference.draining,
            others=lambda: [post.view for post in self._others()],
            clock=time.monotonic,
        )

    def _listeners(self, config: Config) -> GatewayServer:
        own_key = config.gateway.admin_key
        drained = Drained(self._home.drained)
        admin = build_admin(
            self._overview,
            self._keys,
            own_key.get_secret_value() if own_key else make_admin_key(self._home.admin_key),
            self._exposition,
            lambda name, out: drained.set(name, drained=out),
            self._reload.asked,
        )
        api = build_api(self._settings, self._replicas, self._keys, lambda: self._inference.draining)
        addresses = client_addresses(config.gateway, time.monotonic)
        front = Front(self._inference, api)
        return GatewayServer(config.gateway, front, admin, self._inference, addresses)

    # -- what is told ---------------------------------------------------------------------------------

    def _finish(self, record: RequestRecord) -> None:
        self._metrics.observe(record)
        self._request_log(record)

    def _on_change(self, before: Replica, after: Replica) -> None:
        self._log.info(
            "replica",
            replica=after.name,
            before=before.state,
            after=after.state,
            cause=after.cause,
            evidence=after.evidence,
        )
        self._lines.refresh()

    def _on_bug(self, where: str, error: BaseException) -> None:
        self._log.error("bug", where=where, exc_info=error)

    def _on_problem(self, error: PenstockError) -> None:
        self._log.error(error.message, hint=error.hint)

    def _on_redis(self, up: bool, why: str) -> None:
        if up:
            self._log.info("redis is back: limits are shared again")
        else:
            self._log.error("redis is away: every machine keeps its own limits now", why=why)

    # -- beside the requests --------------------------------------------------------------------------

    async def _tend(self) -> None:
        while True:
            self._lines.refresh()
            self._journal.tend()
            await asyncio.sleep(TEND_EVERY_S)

    async def _post(self) -> None:
        while True:
            self._board.post(self._overview.own(), self._metrics.exposition().decode())
            await asyncio.sleep(POST_EVERY_S)

    def _others(self) -> list[Post]:
        return self._board.others() if self._worker.count > 1 else []

    def _exposition(self) -> bytes:
        own = self._metrics.exposition()
        if self._worker.count == 1:
            return own
        posts = [(post.worker, post.metrics) for post in self._others()]
        return together(sorted([(self._worker.number, own.decode()), *posts])).encode()

    async def _seed_spend(self) -> None:
        """Budgets go on from what the ledger says was spent."""


class _Reload:
    """Puts the configuration in force as it is now; one with mistakes is refused whole."""

    def __init__(
        self, settings: Settings, load: Callable[[], Loaded], lines: Lines, worker: Worker, log: Logger
    ) -> None:
        self._settings = settings
        self._load = load
        self._lines = lines
        self._worker = worker
        self._log = log

    async def asked(self) -> int:
        """A reload that the admin API was asked for; returns the generation.

        Raises:
            ClientError: the configuration has mistakes.
        """
        try:
            self._apply()
        except ConfigError as error:
            raise ClientError(
                error.message, code="invalid_configuration", hint="everything is as it was before"
            ) from None
        if self._worker.count > 1:
            os.kill(os.getppid(), signal.SIGHUP)  # which tells the other workers
        return self._settings.generation

    def signalled(self) -> None:
        """A reload by SIGHUP."""
        try:
            self._apply()
        except PenstockError as error:
            self._log.error("reload refused", problems=error.message)

    def _apply(self) -> None:
        self._settings.apply(self._load().config)
        self._lines.refresh()
        self._log.info("reloaded", generation=self._settings.generation)


class _KnownReplicas:
    """The replicas that shall be there now: remote ones of the configuration, and what is registered here."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._registry = Registry(home.replicas)
        self._changed = (0, 0)
        self._registered: list[Replica] = []
        self._known: list[Replica] = []

    def __call__(self) -> list[Replica]:
        """All of them; looked for again only when settings or registry have changed, and can be read."""
        changed_ns = self._registry.changed_ns()
        changed = (changed_ns or self._changed[0], self._settings.generation)
        if changed == self._changed:
            return self._known
        if changed[0] != self._changed[0]:
            self._registered = [
                replica_of(entry.name, entry.model, entry.engine, entry.url, entry.api_key)
                for entry in self._registry.registrations()
            ]
        self._changed = changed
        self._known = [*_remote(self._settings.config), *self._registered]
        return self._known


def _remote(config: Config) -> list[Replica]:
    return [
        replica_of(
            f"{model.name}-{number}",
            model.name,
            model.engine,
            url,
            model.api_key.get_secret_value() if model.api_key else "",
        )
        for model in config.models
        if model.engine == "remote"
        for number, url in enumerate(model.sources)
    ]
