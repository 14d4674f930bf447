"""Replicas that end while their gateway goes on: it gives them no more requests, and they finish what they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from penstock.assembly.admin import GatewayAdmin
from penstock.assembly.rolling import IDLE_LOOKS, LOOK_EVERY_S
from penstock.core.errors import PenstockError
from penstock.store.runtime import Drained


class Emptying:
    """Lets the gateway of this home finish what these replicas have to do; nothing where none runs.

    Args:
        names: of the replicas.
        drained: what the gateway goes by.
        within_s: how long their requests may take.
        say: prints a line for the owner.
    """

    def __init__(
        self,
        names: Sequence[str],
        gateway: GatewayAdmin,
        drained: Drained,
        within_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._names = names
        self._gateway = gateway
        self._drained = drained
        self._within_s = within_s
        self._say = say
        self._put_out: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Returns when they have no requests, or can't be waited for."""
        self._put_out = frozenset(self._names) - self._drained()  # what its owner has drained stays so
        try:
            for name in self._put_out:
                self._drained.set(name, drained=True)
            async with asyncio.timeout(self._within_s):
                await self._until_idle()
        except TimeoutError:
            self._say(
                f"stopping before all requests are finished: they take longer than {self._within_s:g} s"
            )
        except PenstockError:  # no gateway, and so no requests
            return
        except OSError as error:
            self._say(f"stopping while the gateway still gives requests: it can't be told: {error}")

    def undo(self) -> None:
        """Once they are gone: their successors get requests again."""
        with suppress(OSError):  # the next start takes them out too
            for name in self._put_out:
                self._drained.set(name, drained=False)

    async def _until_idle(self) -> None:
        idle = 0
        while idle < IDLE_LOOKS:
            fleet = await self._gateway.fleet()
            idle = idle + 1 if all(map(fleet.is_idle, self._names)) else 0
            await asyncio.sleep(LOOK_EVERY_S)
