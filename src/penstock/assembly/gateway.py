"""The gateway, wired."""

from __future__ import annotations

import asyncio
import time

import uvloop
from prometheus_client import disable_created_metrics

from penstock.core.config import Config
from penstock.core.record import RequestRecord
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.gateway.admin import build_admin
from penstock.gateway.api import build_api
from penstock.gateway.attempts import Attempts
from penstock.gateway.inference import Inference
from penstock.gateway.models import Models
from penstock.gateway.replicas import Replicas, replica_of
from penstock.gateway.server import Front, GatewayServer
from penstock.policy.fleet import Replica
from penstock.store.home import Home
from penstock.store.keys import KeyRing
from penstock.store.runtime import Registry
from penstock.telemetry.logs import RequestLog, open_log
from penstock.telemetry.metrics import Metrics


def run_gateway(config: Config, home: Home) -> None:
    """Runs the gateway until it is told to stop and has drained.

    Raises:
        PenstockError: an address can't be listened on, or the keys can't be read.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_gateway(config, home))


async def _gateway(config: Config, home: Home) -> None:
    # a second series for every counter, that nobody asks for; the library does not type this call
    disable_created_metrics()  # type: ignore[no-untyped-call]
    log = open_log(config.log.level, config.log.format)
    models = Models(config.models)
    client = EngineClient()

    def on_change(before: Replica, after: Replica) -> None:
        log.info(
            "replica",
            replica=after.name,
            before=before.state,
            after=after.state,
            cause=after.cause,
            evidence=after.evidence,
        )

    def on_bug(where: str, error: BaseException) -> None:
        log.error("bug", where=where, exc_info=error)

    replicas = Replicas(_KnownReplicas(config, home), SPECS.__getitem__, client, on_change, on_bug)
    static_keys = [key.get_secret_value() for key in config.gateway.api_keys]
    keys = KeyRing(
        home.keys, static_keys, time.monotonic, lambda error: log.error(error.message, hint=error.hint)
    )
    attempts = Attempts(config.gateway, replicas, client, time.monotonic)

    request_log = RequestLog(log, config.log.format, asyncio.get_running_loop().call_later)

    def finish(record: RequestRecord) -> None:
        metrics.observe(record)
        request_log(record)

    inference = Inference(config.gateway, models, keys, attempts, time.monotonic, finish, on_bug)
    metrics = Metrics(lambda: replicas.fleet, lambda: inference.in_progress)
    api = build_api(models, replicas, keys, lambda: inference.draining)
    admin = build_admin(replicas, metrics.exposition)
    server = GatewayServer(config.gateway, Front(inference, api), admin, inference)
    watching = asyncio.create_task(replicas.run())
    try:
        await server.run()
    finally:
        watching.cancel()
        client.close()
        request_log.flush()


class _KnownReplicas:
    """The replicas that shall be there now: remote ones of the configuration, and what is registered here."""

    def __init__(self, config: Config, home: Home) -> None:
        self._registry = Registry(home.replicas)
        self._models = {model.name for model in config.models}
        self._remote = [
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
        self._changed_ns = 0
        self._known: list[Replica] = self._remote

    def __call__(self) -> list[Replica]:
        """All of them; the registry is read again only when it has changed, and can be."""
        changed_ns = self._registry.changed_ns()
        if changed_ns not in (0, self._changed_ns):
            self._changed_ns = changed_ns
            registered = [
                replica_of(entry.name, entry.model, entry.engine, entry.url, entry.api_key)
                for entry in self._registry.registrations()
                if entry.model in self._models
            ]
            self._known = self._remote + registered
        return self._known
