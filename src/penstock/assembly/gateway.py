"""The gateway, wired."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from penstock.assembly.gateway_metrics import (
    Health,
    show_connections,
    show_fleet,
    show_health,
    show_inference,
    show_stores,
    show_traces,
)
from penstock.assembly.gateway_reload import GatewayReload
from penstock.assembly.known_replicas import KnownReplicas
from penstock.assembly.stores import Stores
from penstock.assembly.worker import Worker
from penstock.core.config import Config, TracesConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.core.record import RequestRecord
from penstock.engines.catalog import spec_of
from penstock.engines.client import EngineClient
from penstock.engines.spec import EngineSpec
from penstock.gateway.addresses import client_addresses
from penstock.gateway.admin import build_admin
from penstock.gateway.api import build_api
from penstock.gateway.api_answers import ApiAnswers
from penstock.gateway.attempts import Attempts
from penstock.gateway.charges import Charges
from penstock.gateway.idempotency import Idempotency
from penstock.gateway.inference import Inference
from penstock.gateway.lines import Lines
from penstock.gateway.overview import Overview
from penstock.gateway.permits import Permits, known_permits
from penstock.gateway.probes import Probes
from penstock.gateway.replicas import Replicas
from penstock.gateway.routing import Routing
from penstock.gateway.server import Front, GatewayServer
from penstock.gateway.settings import Settings
from penstock.gateway.tracing import Tracing
from penstock.gateway.vigil import Vigil
from penstock.policy.breaker import Breaker
from penstock.policy.fleet import Replica, State
from penstock.store.board import Board
from penstock.store.home import Home
from penstock.store.keys import KeyRing, make_admin_key
from penstock.store.runtime import Drained, PartReports, Refusal
from penstock.supervisor.ports import settled
from penstock.telemetry.fleet_state import part_lines
from penstock.telemetry.logs import RequestLog, open_log
from penstock.telemetry.metrics import Metrics
from penstock.telemetry.notify import Notifier
from penstock.telemetry.records import Records
from penstock.telemetry.together import together

if TYPE_CHECKING:
    from penstock.telemetry.traces import Traces

# How often a worker tells the others of itself.
POST_EVERY_S = 0.5
# How long another thread may hold up the loop: one that reads what other workers say, or resolves a name. Python's
# own 5 ms are a quarter of the time between two tokens.
SWITCH_INTERVAL_S = 0.0005
TEND_EVERY_S = 1.0


def run_gateway(
    config: Config, load: Callable[[], Loaded], home: Home, worker: Worker, notifier: Notifier
) -> None:
    """Runs the gateway until it is told to stop and has drained.

    Args:
        load: reads the configuration anew; raises ConfigError.
        worker: which of several this one is.
        notifier: tells a service manager how it goes.

    Raises:
        PenstockError: an address can't be listened on, or the keys can't be read.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_gateway(config, load, home, worker, notifier))


async def _gateway(
    config: Config, load: Callable[[], Loaded], home: Home, worker: Worker, notifier: Notifier
) -> None:
    gateway = _Gateway(_with_ports(config), load, home, worker, notifier)
    try:
        await gateway.run()
    finally:
        await gateway.close()


class _Gateway:
    """Every part of one gateway process."""

    def __init__(
        self, config: Config, load: Callable[[], Loaded], home: Home, worker: Worker, notifier: Notifier
    ) -> None:
        self._health = Health()
        self._home = home
        self._parts = PartReports(home.parts)
        self._worker = worker
        self._notifier = notifier
        self._log = open_log(config.log.level, config.log.format)
        self._log.info("starting", listen=str(config.gateway.listen), admin=str(config.gateway.admin))
        self._settings = Settings(config)
        self._client = EngineClient()
        self._keys = self._key_ring(config)
        self._stores = Stores(config, home, worker, self._keys, self._log)
        self._replicas, self._lines, self._permits, self._routing = self._fleet()
        self._idempotency = Idempotency(
            self._stores.answers,
            time.monotonic,
            on_bug=self._on_bug,
            on_state=self._stores.on_answers,
            comment_every_s=config.gateway.comment_every_s,
        )
        self._addresses = client_addresses(config.gateway, time.monotonic)
        self._inference = Inference(
            self._settings,
            self._keys,
            Charges(self._stores.limits, self._stores.journal),
            self._lines,
            Attempts(self._settings, self._replicas, self._routing, self._client, time.monotonic),
            self._idempotency,
            self._addresses,
            _tracing(config.traces),
            time.monotonic,
            self._finish,
            self._on_bug,
        )
        self._metrics = Metrics(self._settings.models, self._on_bug)
        self._answers = ApiAnswers(partial(self._log.info, "api_request"))
        takers = [self._metrics.observe, RequestLog(self._log).write]
        self._traces = self._trace(config.traces)
        if self._traces is not None:
            takers.append(self._traces.take)
        self._records = Records(
            takers,
            asyncio.get_running_loop().call_later,
            self._on_bug,
        )
        self._board = Board(home.workers, worker.number)
        self._posts = True
        self._overview = self._look()
        self._reload = GatewayReload(self._settings, load, self._follow, worker, self._log, notifier)
        self._show()
        self._server = self._listeners(config)
        show_connections(self._metrics, self._answers, self._server)

    async def run(self) -> None:
        """Serves until it is told to stop and has drained."""
        await self._stores.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload.signalled)
        beside = [
            *(self._replicas.run(), self._permits.run(), self._vigil().run(), self._tend()),
            *(self._stores.keep_ledger(), self._notifier.beat(self._summary)),
        ]
        if self._worker.count > 1:
            beside.append(self._post())
        tasks = [asyncio.create_task(work) for work in beside]
        try:
            await self._server.run(self._notifier, reuse_port=self._worker.count > 1)
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Gives back what it holds."""
        self._board.leave()
        self._client.close()
        await self._idempotency.close()
        await self._stores.close()
        self._records.flush()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    # -- parts ----------------------------------------------------------------------------------------

    def _key_ring(self, config: Config) -> KeyRing:
        return KeyRing(
            self._home.keys,
            [key.get_secret_value() for key in config.gateway.api_keys],
            time.monotonic,
            time.time,
            self._on_problem,
        )

    def _fleet(self) -> tuple[Replicas, Lines, Permits, Routing]:
        replicas = Replicas(
            KnownReplicas(self._settings, self._home),
            Drained(self._home.drained),
            self._spec_of,
            self._client,
            self._on_change,
            self._on_bug,
            self._parts.loading,
        )
        permits = Permits(
            lambda: replicas.fleet,
            replicas.in_flight,
            self._client,
            self._known_permits,
            self._spec_of,
            time.monotonic,
            self._on_bug,
            workers=self._worker.count,
        )
        routing = Routing(replicas, permits.by_name, time.monotonic, random.random, self._on_trust)
        lines = Lines(self._settings, replicas, permits.by_name, routing.breakers, time.monotonic)
        return replicas, lines, permits, routing

    def _vigil(self) -> Vigil:
        return Vigil(
            self._replicas,
            Probes(self._client),
            self._spec_of,
            self._stall_s,
            self._permits.concurrency,
            time.monotonic,
            self._on_bug,
        )

    def _stall_s(self, model: str) -> float | None:
        found = self._settings.models.get(model)
        return found.health.stall_s if found is not None else None

    def _spec_of(self, replica: Replica) -> EngineSpec:
        return spec_of(replica.engine, self._settings.models.get(replica.model))

    def _known_permits(self, model: str) -> int | None:
        """What is set for a model's replicas, or known of their engine."""
        found = self._settings.models.get(model)
        if found is None:
            return None
        return found.concurrency or known_permits(found)

    def _show(self) -> None:
        show_fleet(self._metrics, self._settings, self._replicas, self._lines, self._routing)
        show_inference(self._metrics, self._settings, self._inference)
        show_stores(self._metrics, self._stores)
        show_health(self._metrics, self._settings, self._reload, Refusal(self._home.refusal), self._health)

    def _trace(self, config: TracesConfig) -> Traces | None:
        if config.endpoint is None:
            return None
        from penstock.telemetry.traces import Traces, open_exporter  # 13 MB that few need

        traces = Traces(open_exporter(config), self._on_collector)
        show_traces(self._metrics, traces.counts)
        return traces

    def _on_collector(self, works: bool) -> None:
        if works:
            self._log.info("traces are sent again")
        else:
            self._log.error("traces can't be sent: the collector does not take them")

    def _look(self) -> Overview:
        return Overview(
            self._settings,
            self._replicas,
            self._lines,
            self._stores.limits,
            self._keys,
            in_progress=lambda: self._inference.in_progress,
            draining=lambda: self._inference.draining,
            others=self._other_views,
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
        front = Front(self._inference, api, self._answers)
        return GatewayServer(config.gateway, front, admin, self._inference, self._addresses)

    # -- what is told ---------------------------------------------------------------------------------

    def _finish(self, record: RequestRecord) -> None:
        self._records.add(record)

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
        if after.state is not State.STOPPED:
            self._permits.meet(after)
        self._lines.refresh()

    def _follow(self) -> None:
        """What goes by the settings follows them."""
        self._records.flush()
        log = self._settings.config.log
        self._log.follow(log.level, log.format)
        self._metrics.follow(self._settings.models)
        for replica in self._replicas.fleet.replicas:
            self._permits.meet(replica)
        self._lines.refresh()
        self._stores.seed_again()

    def _on_trust(self, name: str, breaker: Breaker) -> None:
        self._log.info("trust", replica=name, state=breaker.state, cause=breaker.cause)
        self._lines.refresh()

    def _on_bug(self, where: str, error: BaseException) -> None:
        self._health.bugs += 1
        self._log.error("bug", where=where, exc_info=error)

    def _on_problem(self, error: PenstockError) -> None:
        self._log.error(error.message, hint=error.hint)

    def _summary(self) -> str:
        replicas = self._replicas.fleet.replicas
        unready = [f"{one.name} {one.state}" for one in replicas if one.state is not State.READY]
        ready = f"serving with {len(replicas) - len(unready)} of {len(replicas)} replicas"
        return ready + (f"; {', '.join(unready)}" if unready else "")

    # -- beside the requests --------------------------------------------------------------------------

    async def _tend(self) -> None:
        while True:
            self._lines.refresh()
            self._stores.journal.tend()
            due_s = time.monotonic() + TEND_EVERY_S
            await asyncio.sleep(TEND_EVERY_S)
            self._health.note_lag(time.monotonic() - due_s)

    async def _post(self) -> None:
        while True:
            self._tell_others(self._own_exposition())
            await asyncio.sleep(POST_EVERY_S)

    def _tell_others(self, exposition: bytes) -> None:
        try:
            self._board.post(self._overview.own(), exposition.decode())
            self._posts = True
        except OSError as error:
            if self._posts:  # said once: the others do not see this worker now
                self._log.error("this worker can't tell the others of itself", why=str(error))
            self._posts = False

    async def _other_views(self) -> list[dict[str, Any]]:
        if self._worker.count == 1:
            return []
        return [post.view for post in await asyncio.to_thread(self._board.others)]

    def _own_exposition(self) -> bytes:
        self._records.flush()
        return self._metrics.exposition()

    async def _exposition(self) -> bytes:
        own = self._own_exposition()
        if self._worker.count > 1:  # first, so that no other worker shows less than this page does
            self._tell_others(own)
        return await asyncio.to_thread(self._whole_exposition, own)

    def _whole_exposition(self, own: bytes) -> bytes:
        """Those of all workers as one, and the supervisor's parts; reads files, and maybe megabytes of text: not
        for the event loop.
        """
        if self._worker.count > 1:
            posts = [(post.worker, post.metrics) for post in self._board.others()]
            own = together(sorted([(self._worker.number, own.decode()), *posts])).encode()
        return own + "\n".join([*part_lines(self._parts.all()), ""]).encode()


def _with_ports(config: Config) -> Config:
    """The same, with ports where any free one will do."""
    listen, admin = settled(config.gateway.listen), settled(config.gateway.admin)
    return config.model_copy(
        update={"gateway": config.gateway.model_copy(update={"listen": listen, "admin": admin})}
    )


def _tracing(config: TracesConfig) -> Tracing | None:
    if config.endpoint is None:
        return None
    return Tracing(config.sample, random.getrandbits, follow_clients=config.follow_clients)
