"""Replicas that end while their gateway goes on: it gives them no more requests, and they finish what they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.assembly.reloading import GatewayAdmin
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
            await self._gateway.empty(self._names, self._within_s)
        except TimeoutError:
            self._say(
                f"stopping before all requests are finished: they take longer than {self._within_s:g} s"
            )
        except PenstockError as error:
            self._say(f"stopping without a drain: {error.message}")

    def undo(self) -> None:
        """Once they are gone: their successors get requests again."""
        for name in self._put_out:
            self._drained.set(name, drained=False)
