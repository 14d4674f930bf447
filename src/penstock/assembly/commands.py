"""What a running supervisor can be asked to do: one thing at a time, told as it goes."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence

from penstock.assembly.engines import Engines, is_started
from penstock.assembly.reloading import Reloading
from penstock.assembly.rolling import Rolling, Way
from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.core.units import format_duration
from penstock.supervisor.control import Ask, Tell
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import Supervisor
from penstock.telemetry.notify import Notifier

WHEN_LOST = "see `penstock status`, mend the cause, then `penstock restart MODEL`"


class Commands:
    """Restarts and reloads, for the control socket and SIGHUP.

    Args:
        say: prints a line for the owner.
        notifier: tells a service manager of reloads.
        refused: takes the reason for which a reload was refused, or an empty one once none is.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        rolling: Rolling,
        reloading: Reloading,
        engines: Engines,
        say: Callable[[str], None],
        notifier: Notifier,
        refused: Callable[[str], None],
    ) -> None:
        self._supervisor = supervisor
        self._rolling = rolling
        self._reloading = reloading
        self._engines = engines
        self._say = say
        self._notifier = notifier
        self._refused = refused
        self._one_at_a_time = asyncio.Lock()
        self._under_way = ""
        self._follows = False
        self._hung_up = asyncio.Event()

    def hang_up(self) -> None:
        """SIGHUP: a reload, after what is under way, or in the place of another one by SIGHUP."""
        if self._under_way and not self._follows:
            self._say(f"SIGHUP: a reload follows once {self._under_way} is over")
        self._hung_up.set()

    async def follow_hangups(self) -> None:
        """Reloads at each SIGHUP, until cancelled."""
        while True:
            await self._hung_up.wait()
            async with self._one_at_a_time:
                self._hung_up.clear()
                self._follows = True
                try:
                    await self._follow()
                finally:
                    self._follows = False

    async def _follow(self) -> None:
        """One reload; withdrawn when the next SIGHUP finds another configuration than the one that it follows."""
        work = asyncio.ensure_future(self._told(Ask("reload"), _nobody))
        hung_up = asyncio.ensure_future(self._hung_up.wait())
        try:
            while not work.done():
                await asyncio.wait({work, hung_up}, return_when=asyncio.FIRST_COMPLETED)
                if hung_up.done() and not work.done():
                    if self._is_outdated():
                        return
                    self._hung_up.clear()
                    hung_up = asyncio.ensure_future(self._hung_up.wait())
        finally:
            hung_up.cancel()
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # which is said

    def _is_outdated(self) -> bool:
        """Whether the reload under way is to be withdrawn for another."""
        try:
            outdated = self._reloading.is_outdated()
        except PenstockError as error:
            self._say(f"SIGHUP: refused, the reload under way goes on: {error.message}")
            return False
        self._say(
            "SIGHUP: the reload under way is withdrawn for another"
            if outdated
            else "SIGHUP: the reload under way goes on, the configuration has not changed since"
        )
        return outdated

    async def carry_out(self, ask: Ask, tell: Tell) -> str:
        """Does what is asked; returns the outcome.

        Raises:
            PenstockError: it failed, or something else is under way.
        """
        if self._one_at_a_time.locked():
            raise PenstockError(
                f"{self._under_way or 'a reload'} is under way",
                code="busy",
                hint="try again once it is over; Ctrl-C ends a command that still runs",
            )
        async with self._one_at_a_time:
            return await self._told(ask, tell)

    async def _told(self, ask: Ask, tell: Tell) -> str:
        if ask.command == "restart":
            what, failed, act = f"restart of {ask.replica or ask.model}", "failed", self._restart
        else:
            what, failed, act = "reload", "refused", self._reload

        def tell_all(about: str, text: str) -> None:
            self._say(f"{what}: {about}: {text}" if about else f"{what}: {text}")
            tell(about, text)

        self._under_way, before, down = what, self._reloading.loaded, self._down()
        try:
            with self._supervisor.changing():
                outcome = await act(ask, tell_all)
        except asyncio.CancelledError:
            self._say(f"{what}: withdrawn")
            raise
        except PenstockError as error:
            lost = ", ".join(name for name in self._down() if name not in down)
            if self._reloading.loaded is not before:
                failed, hint = "not finished", "the new configuration is in force; reload again to finish"
            elif lost:
                hint = f"not up: {lost}, and what ran before is stopped; {WHEN_LOST}"
            elif ask.command == "reload":
                failed, hint = "refused, nothing has changed", "everything is as it was before"
            else:
                hint = "as many replicas serve as before"
            self._say(f"{what} {failed}: {error.message}")
            error.hint = error.hint or hint
            raise
        except Exception as error:  # a bug of ours, for which no engine has to end
            for line in traceback.format_exc().splitlines():
                self._say(line)
            raise PenstockError(
                f"{what} ended by a bug: {error!r}", hint="the supervisor has said where"
            ) from error
        finally:
            self._under_way = ""
        self._say(f"{what}: {outcome}")
        return outcome

    def _down(self) -> list[str]:
        """The replicas that are not up."""
        keepers = self._supervisor.all_keepers()
        return [keeper.part.name for keeper in keepers if not keeper.became_ready.is_set()]

    async def _reload(self, ask: Ask, tell: Tell) -> str:
        try:
            with self._notifier.reloading():
                outcome = await self._reloading.run(
                    in_place=ask.in_place, ready_within_s=ask.ready_within_s, tell=tell
                )
        except PenstockError as error:
            self._note(error.message)
            raise
        self._note("")
        return outcome

    def _note(self, refused: str) -> None:
        try:
            self._refused(refused)
        except OSError as error:
            self._say(f"that a reload was refused can't be kept for `penstock status` ({error.strerror})")

    async def _restart(self, ask: Ask, tell: Tell) -> str:
        began_s = time.monotonic()
        model = self._model(ask.model)
        old = _named(self._supervisor.keepers(model.name), ask.replica)
        await self._engines.check_aside(self._reloading.loaded, lambda one: one is model)
        if ask.in_place:
            if len(self._supervisor.keepers(model.name)) == 1:
                tell(
                    model.name,
                    "its only replica is restarted in place: requests get 503 with Retry-After meanwhile",
                )
        else:
            _, why = await self._engines.check_room(model, model, old)
            if why:
                tell(model.name, why)
        if len(old) > 1:
            tell(model.name, f"{len(old)} replicas, one after another")
        way = Way(0 if ask.in_place else 1, ask.ready_within_s, model.timeouts.total_s)
        await self._rolling.replace(old, model, len(old), way, tell)
        took = format_duration(time.monotonic() - began_s)
        return f"{model.name}: {_replicas(len(old))} restarted in {took}"

    def _model(self, name: str) -> ModelConfig:
        models = self._reloading.models
        if name not in models:
            raise PenstockError(
                f"there is no model {name!r}", code="unknown_model", hint=f"known: {', '.join(models)}"
            )
        if not is_started(models[name]):
            raise PenstockError(
                f"model {name!r} has engine {models[name].engine}, which Penstock does not start",
                code="not_started_here",
                hint="restart it where it runs; `penstock drain REPLICA` takes it out of service before",
            )
        return models[name]


def _nobody(about: str, text: str) -> None:
    """Takes what nobody waits for."""


def _named(keepers: Sequence[Keeper], name: str) -> list[Keeper]:
    """The keeper of this replica; all where none is named.

    Raises:
        PenstockError: there is none of this name.
    """
    found = [keeper for keeper in keepers if name in ("", keeper.part.name)]
    if not found:
        names = ", ".join(keeper.part.name for keeper in keepers)
        raise PenstockError(
            f"there is no replica {name!r}", code="unknown_replica", hint=f"its replicas: {names}"
        )
    return found


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"
