"""Replicas that stay stalled are started again: the gateway sees them, the supervisor asks it and acts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from penstock.core.errors import PenstockError
from penstock.core.units import format_duration
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.parts import ReplicaPart

ASK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class StalledReplica:
    """One that the gateway calls stalled, for how long, and why."""

    since_s: float
    evidence: str


class StalledRestarts:
    """Starts replicas again that have been stalled for longer than their model's `health.restart_after`.

    Args:
        stalled: those that are stalled now, by name; raises PenstockError where nobody can tell.
        keepers: those that run now.
    """

    def __init__(
        self,
        stalled: Callable[[], Awaitable[Mapping[str, StalledReplica]]],
        keepers: Callable[[], Iterable[Keeper]],
    ) -> None:
        self._stalled = stalled
        self._keepers = keepers

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Asks once, and acts."""
        try:
            stalled = await self._stalled()
        except PenstockError:  # a gateway that does not answer has a keeper of its own
            return
        for keeper in self._keepers():
            found = stalled.get(keeper.part.name)
            if found is None or not isinstance(keeper.part, ReplicaPart) or keeper.pid is None:
                continue
            health = keeper.part.model.health
            if health.restart and found.since_s >= health.restart_after_s:
                cause = f"it has been stalled for {format_duration(found.since_s)}: {found.evidence}"
                await keeper.restart(cause)
