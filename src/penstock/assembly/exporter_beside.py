"""The exporter beside what `penstock up` runs, where the configuration says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.core.config import ExporterConfig
from penstock.engines.client import EngineClient
from penstock.policy.restart import RestartLimits
from penstock.store.home import Home
from penstock.supervisor.exporter_part import ExporterPart
from penstock.supervisor.keeper import Keeper, Surroundings
from penstock.supervisor.ports import settled, why_not_free

LIMITS = RestartLimits(failed_starts_max=1)  # as of the gateway: what stops it from starting is no accident


@asynccontextmanager
async def exporter_beside(
    config: ExporterConfig, options: tuple[str, ...], home: Home, around: Surroundings, client: EngineClient
) -> AsyncIterator[None]:
    """Keeps the exporter running meanwhile, where it is enabled; one that can't run is said so, and missed by nobody.

    Args:
        options: of the command line, before the command.
    """
    taken = why_not_free(config.listen) if config.enabled else ""
    if taken:
        around.say(f"warning: no exporter: exporter.listen: {taken}; set it to another address")
    if taken or not config.enabled:
        yield
        return
    part = ExporterPart(settled(config.listen), options, client)
    keeper = Keeper(part, home.log(part.name), LIMITS, around)
    around.say(f"{part.name}: metrics at http://{part.listen.reachable()}/metrics")
    keeping = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        await keeper.stop()
        await keeping
