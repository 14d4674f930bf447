"""The gateway, wired."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
from penstock.gateway.idempotency import Idempotency
from penstock.gateway.inference import Inference
from penstock.gateway.lines import Lines
from penstock.gateway.overview import Overview
from penstock.gateway.permits import Permits, known_permits
from penstock.gateway.replicas import Replicas, replica_of
from penstock.gateway.routing import Routing
from penstock.gateway.server import Front, GatewayServer
from penstock.gateway.settings import Settings
from penstock.policy.breaker import Breaker
from penstock.policy.fleet import Replica, State
from penstock.store.answers import AnswerStore
from penstock.store.answers_local import LocalAnswers
from penstock.store.board import Board, Post
from penstock.store.home import Home
from penstock.store.journal import Journal
from penstock.store.keys import KeyRing, make_admin_key
from penstock.store.ledger import Ledger
from penstock.store.limits import LimitStore, LocalLimits
from penstock.store.limits_shared import SharedLimits
from penstock.store.runtime import Drained, Registry
from penstock.telemetry.logs import Logger, RequestLog, open_log
from penstock.telemetry.metrics import Metrics
from penstock.telemetry.together import together

if TYPE_CHECKING:
    from penstock.store.answers_redis import RedisAnswers
    from penstock.store.limits_redis import RedisLimits

# How often a worker tells the others of itself.
POST_EVERY_S = 0.5
TEND_EVERY_S = 1.0
ANSWER_PATIENCE_S = 0.25  # an answer is larger than a limit
INGEST_EVERY_S = 1.0
INGEST_WITHIN_S = 30.0


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
        self._redis: RedisLimits | None = None
        self._shared_answers: RedisAnswers | None = None
        self._shared_is_up = config.shared.redis is None
        self._log = open_log(config.log.level, config.log.format)
        self._request_log = RequestLog(self._log, config.log.format, asyncio.get_running_loop().call_later)
        self._settings = Settings(config)
        self._client = EngineClient()
        self._keys = self._key_ring(config)
        self._limits = self._limit_store(config)
        self._journal = self._open_journal(config)
        self._ledger = Ledger(
            home.ledger,
            home.journal,
            time.time,
            keep_s=config.usage.journal_keep_s,
            on_problem=self._on_problem,
        )
        self._replicas, self._lines, self._permits, self._routing = self._fleet()
        self._idempotency = self._answers(config)
        self._addresses = client_addresses(config.gateway, time.monotonic)
        self._inference = Inference(
            self._settings,
            self._keys,
            Charges(self._limits, self._journal),
            self._lines,
            Attempts(self._settings, self._replicas, self._routing, self._client, time.monotonic),
            self._idempotency,
            self._addresses,
            time.monotonic,
            self._finish,
            self._on_bug,
        )
        self._metrics = self._counted()
        self._board = Board(home.workers, worker.number)
        self._overview = self._look()
        self._reload = _Reload(self._settings, load, self._lines, worker, self._log)
        self._server = self._listeners(config)

    async def run(self) -> None:
        """Serves until it is told to stop and has drained."""
        if self._redis is not None:
            await self._redis.start()
            if self._redis.up:
                self._on_redis(up=True, why="")
        if self._shared_answers is not None:
            await self._shared_answers.start()
        await self._seed_spend()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload.signalled)
        beside = [self._replicas.run(), self._permits.run(), self._tend(), self._keep_ledger()]
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
        await self._idempotency.close()
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
        from penstock.store.limits_redis import RedisLimits  # 5 MB that few need

        self._redis = RedisLimits(
            shared.redis.get_secret_value(),
            shared.prefix,
            time.time,
            here,
            shared.timeout_s,
            self._on_redis,
        )
        return self._redis

    def _open_journal(self, config: Config) -> Journal:
        return Journal(
            self._home.journal,
            time.time,
            sync=config.usage.journal_sync,
            on_failure=config.usage.on_journal_failure,
            on_problem=self._on_problem,
            on_recovered=lambda kept: self._log.info("journal works again", kept_lines=kept),
        )

    def _answers(self, config: Config) -> Idempotency:
        """For this machine, or for all gateways that share a Redis."""
        bounds: Any = {
            "ttl_s": config.idempotency.ttl_s,
            "entries_max": config.idempotency.entries_max,
            "bytes_max": config.idempotency.bytes_max,
        }
        here = LocalAnswers(self._home.answers, time.time, **bounds, on_problem=self._log.warning)
        store: AnswerStore = here
        shared = config.shared
        if shared.redis is not None:
            from penstock.store.answers_redis import RedisAnswers

            url = shared.redis.get_secret_value()
            patience_s = max(ANSWER_PATIENCE_S, shared.timeout_s)
            store = self._shared_answers = RedisAnswers(
                url, shared.prefix, here, **bounds, timeout_s=patience_s
            )
        return Idempotency(
            store,
            time.monotonic,
            on_bug=self._on_bug,
            on_state=self._on_answers,
            comment_every_s=config.gateway.comment_every_s,
        )

    def _fleet(self) -> tuple[Replicas, Lines, Permits, Routing]:
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
            workers=self._worker.count,
        )
        routing = Routing(replicas, permits.by_name, time.monotonic, random.random, self._on_trust)
        lines = Lines(self._settings, replicas, permits.by_name, routing.breakers, time.monotonic)
        return replicas, lines, permits, routing

    def _known_permits(self, model: str) -> int | None:
        """What is set for a model's replicas, or known of their engine."""
        found = self._settings.models.get(model)
        if found is None:
            return None
        return found.concurrency or known_permits(found)

    def _counted(self) -> Metrics:
        metrics = Metrics(lambda: self._replicas.fleet, lambda: self._inference.in_progress)
        metrics.lines(lambda: {name: line.snapshot() for name, line in self._lines.by_model.items()})
        metrics.gauge(
            "penstock_journal_failing",
            "1 while the usage journal can't be written.",
            lambda: self._journal.failing,
        )
        metrics.gauge(
            "penstock_journal_kept_lines", "Lines that wait in memory for it.", lambda: self._journal.kept
        )
        metrics.gauge(
            "penstock_shared_store_up",
            "0 while the configured Redis is away, and limits are kept by each machine.",
            lambda: self._shared_is_up,
        )
        return metrics

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
        front = Front(self._inference, api)
        return GatewayServer(config.gateway, front, admin, self._inference, self._addresses)

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
        if after.state in (State.STARTING, State.STOPPED):  # another process, or none
            self._routing.forget(after.name)
            self._permits.forget(after.name)
        self._lines.refresh()

    def _on_trust(self, name: str, breaker: Breaker) -> None:
        self._log.info("trust", replica=name, state=breaker.state, cause=breaker.cause)
        self._lines.refresh()

    def _on_bug(self, where: str, error: BaseException) -> None:
        self._log.error("bug", where=where, exc_info=error)

    def _on_problem(self, error: PenstockError) -> None:
        self._log.error(error.message, hint=error.hint)

    def _on_redis(self, up: bool, why: str) -> None:
        self._shared_is_up = up
        if up:
            self._log.info("redis is there: limits are shared")
            self._seeding = asyncio.get_running_loop().create_task(self._seed_spend())
        else:
            self._log.error("redis is away: every machine keeps its own limits now", why=why)

    def _on_answers(self, works: bool, why: str) -> None:
        if works:
            self._log.info("answers are kept again")
        else:
            self._log.error("answers for idempotency keys can't be kept", why=why)

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

    async def _keep_ledger(self) -> None:
        """Brings the journal into the ledger, in a thread: whichever worker comes first does it for all."""
        told = (0, 0)
        while True:
            try:
                report = await asyncio.to_thread(self._ledger.ingest)
                damage = (report.torn, report.unreadable)
                if any(damage) and damage != told:
                    self._log.warning(
                        "damaged lines in the journal", torn=report.torn, unreadable=report.unreadable
                    )
                told = damage
            except PenstockError as error:
                self._on_problem(error)
            await asyncio.sleep(INGEST_EVERY_S)

    async def _seed_spend(self) -> None:
        """Budgets go on from what the ledger says was spent."""
        try:
            await asyncio.to_thread(self._ledger.ingest, wait_s=INGEST_WITHIN_S)
            spend = await asyncio.to_thread(self._ledger.spend)
        except PenstockError as error:  # serving does not wait for accounts to be mended
            self._on_problem(error)
            return
        counted_as = {key.id: key.counted_as for key in self._keys.valid()}
        keys: dict[str, tuple[float, float]] = {}
        for key_id, spent in spend.keys.items():
            subject = f"key:{counted_as.get(key_id, key_id)}"
            day_usd, month_usd = keys.get(subject, (0.0, 0.0))
            keys[subject] = (day_usd + spent.day_usd, month_usd + spent.month_usd)
        tenants = {
            f"tenant:{name}": (spent.day_usd, spent.month_usd) for name, spent in spend.tenants.items()
        }
        for subject, (day_usd, month_usd) in {**keys, **tenants}.items():
            await self._limits.seed_spend(subject, day_usd, month_usd)


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
