"""Several gateway processes on one address: the kernel shares out connections, a parent keeps them running.

The parent serves nothing itself. It is told what a gateway is told: SIGTERM drains every worker, SIGHUP makes
every worker follow the configuration; a worker that ends otherwise is started again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from penstock.assembly.worker import WORKER_VARIABLE, WORKERS_VARIABLE
from penstock.core.config import GatewayConfig
from penstock.engines.client import EngineClient
from penstock.policy.restart import RestartLimits
from penstock.store.home import Home
from penstock.store.keys import make_admin_key
from penstock.supervisor.keeper import Keeper, Surroundings
from penstock.supervisor.parts import GatewayPart
from penstock.supervisor.ports import settled
from penstock.telemetry.notify import Notifier

# What stops a worker from starting at first is no accident. Later, its siblings have streams that go on.
LIMITS = RestartLimits(failed_starts_max=1, keeps_trying=True)


def run_workers(
    config: GatewayConfig,
    home: Home,
    options: tuple[str, ...],
    environ: Mapping[str, str],
    say: Callable[[str], None],
    notifier: Notifier,
) -> int:
    """Runs `config.workers` gateways until SIGTERM or SIGINT; returns the exit code.

    Args:
        options: of the command line, that make a worker read the same configuration.
        say: prints a line for the owner.
        notifier: tells a service manager how it goes.
    """
    return asyncio.run(_run(config, home, options, environ, say, notifier))


async def _run(
    config: GatewayConfig,
    home: Home,
    options: tuple[str, ...],
    environ: Mapping[str, str],
    say: Callable[[str], None],
    notifier: Notifier,
) -> int:
    make_admin_key(home.admin_key)  # before there are several to make it
    listen, admin = settled(config.listen), settled(config.admin)
    client = EngineClient()
    around = Surroundings(environ, time.monotonic, random.random, say)
    keepers = []
    for number in range(config.workers):
        part = GatewayPart(
            listen.reachable(),
            options,
            {
                WORKER_VARIABLE: str(number),
                WORKERS_VARIABLE: str(config.workers),
                "PENSTOCK_GATEWAY__LISTEN": str(listen),
                "PENSTOCK_GATEWAY__ADMIN": str(admin),
            },
            config.drain_timeout_s,
            client,
            name=f"gateway-{number}",
        )
        keepers.append(Keeper(part, home.log(part.name), LIMITS, around))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, _hang_up, keepers)
    say(f"gateway: {config.workers} workers at {listen}, logs in {home.logs}")
    tasks = [asyncio.create_task(keeper.run()) for keeper in keepers]
    stop = asyncio.create_task(stopping.wait())
    telling = (_told_when_up(keepers, notifier), notifier.beat(lambda: _summary(keepers)))
    beside = [asyncio.create_task(work) for work in telling]
    await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    notifier.stopping()
    await asyncio.gather(*(keeper.stop() for keeper in keepers))
    await asyncio.gather(*tasks)
    for task in (stop, *beside):
        task.cancel()
    client.close()
    reasons = [keeper.given_up for keeper in keepers if keeper.given_up]
    for reason in reasons:
        say(f"error: {reason}")
    return 1 if reasons else 0


async def _told_when_up(keepers: list[Keeper], notifier: Notifier) -> None:
    for keeper in keepers:
        await keeper.became_ready.wait()
    notifier.ready()


def _summary(keepers: list[Keeper]) -> str:
    return f"{sum(keeper.became_ready.is_set() for keeper in keepers)} of {len(keepers)} workers up"


def _hang_up(keepers: list[Keeper]) -> None:
    for keeper in keepers:
        if keeper.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(keeper.pid, signal.SIGHUP)
