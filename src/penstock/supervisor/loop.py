"""The supervisor: engines and gateway start together, stop in order, and are watched in between.

Order of stopping: the gateway first, which drains; then the engines; each takes its registration with it. Ctrl-C
amid it kills what is left. Whatever happens, no process outlives `Supervisor.run`.
"""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.core.errors import PenstockError
from penstock.core.units import format_duration
from penstock.supervisor.keeper import Keeper

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

READY_LOOK_EVERY_S = 0.05
WAITING_SAID_EVERY_S = 5.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class ModelKeepers:
    """The keepers of one model's replicas."""

    model: str
    keepers: tuple[Keeper, ...]

    @property
    def given_up(self) -> str:
        """Why nothing of it is left to wait for; empty while something is."""
        reasons = [keeper.given_up for keeper in self.keepers]
        return reasons[0] if reasons and all(reasons) else ""


class Supervisor:
    """Runs keepers until a signal, or until nothing is left that could serve.

    Args:
        models: those whose replicas it runs.
        gateway: None to run replicas alone.
        others_serve: whether some model has replicas that it does not run.
        unready: why clients can't be served yet; empty when they can.
        on_waiting: told what `unready` says, as long as that is something.
        on_ready: called once, when `unready` first says nothing.
        on_stopping: called before anything is stopped.
        say: prints a line for the owner.
    """

    def __init__(
        self,
        models: Sequence[ModelKeepers],
        gateway: Keeper | None,
        *,
        others_serve: bool,
        unready: Callable[[], Awaitable[str]],
        on_waiting: Callable[[str], None] = lambda _: None,
        on_ready: Callable[[], None],
        on_stopping: Callable[[], Awaitable[None]] | None = None,
        say: Callable[[str], None],
    ) -> None:
        self.stopping = False
        self._models = {model.model: model for model in models}
        self._gateway = gateway
        self._changing = False
        self._tasks: dict[Keeper, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._others_serve = others_serve
        self._unready = unready
        self._on_waiting = on_waiting
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._say = say
        self._ready = False
        self._asked = asyncio.Event()
        self._asked_by: signal.Signals | None = None
        self._hurried = False

    async def run(
        self,
        beside: Sequence[Callable[[], Coroutine[None, None, None]]] = (),
        on_hangup: Callable[[], None] | None = None,
    ) -> int:
        """The exit code, once everything it started is gone.

        Args:
            beside: what runs along with it, and is cancelled before anything is stopped.
            on_hangup: called at SIGHUP; without it that stops everything, as SIGTERM does.
        """
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # of nohup
            loop.add_signal_handler(signal.SIGHUP, self._on_signal, signal.SIGHUP)
        for keeper in self._keepers():
            self._start(keeper)
        readiness = asyncio.create_task(self._watch_readiness())
        along = [asyncio.create_task(self._beside(run)) for run in beside]
        try:
            trouble = await self._until_over()
            self.stopping = True
            for task in (readiness, *along):
                task.cancel()
            await asyncio.gather(*along, return_exceptions=True)
            await self._stop(trouble)
            await asyncio.gather(*self._tasks.values())
        except BaseException:
            for keeper in self._keepers():
                keeper.kill()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            raise
        finally:
            for task in (readiness, *along):
                task.cancel()
            for number in (*_SIGNALS, signal.SIGHUP):
                loop.remove_signal_handler(number)
        return self._exit_code(trouble)

    @property
    def models(self) -> tuple[ModelKeepers, ...]:
        """Those whose replicas it runs now."""
        return tuple(self._models.values())

    @property
    def down(self) -> tuple[str, ...]:
        """The parts that are not up."""
        return tuple(keeper.part.name for keeper in self._keepers() if not keeper.became_ready.is_set())

    @property
    def names(self) -> frozenset[str]:
        """Of all parts that run, those that shall end included."""
        return frozenset(keeper.part.name for keeper in self._tasks)

    def all_keepers(self) -> tuple[Keeper, ...]:
        """Of the replicas of all models, those that shall end left out."""
        return tuple(keeper for model in self.models for keeper in model.keepers)

    def keepers(self, model: str) -> tuple[Keeper, ...]:
        """Of the replicas of this model, those that shall end left out."""
        found = self._models.get(model)
        return found.keepers if found else ()

    def set_keepers(self, model: str, keepers: Sequence[Keeper]) -> None:
        """Runs these for the model; what is left out goes on until `retire`. None at all forgets the model."""
        if keepers:
            self._models[model] = ModelKeepers(model, tuple(keepers))
        else:
            self._models.pop(model, None)
        for keeper in keepers:
            if keeper not in self._tasks:
                self._start(keeper)

    async def retire(self, keeper: Keeper) -> None:
        """Stops a keeper that no model has any more."""
        await keeper.stop()
        await self._tasks.pop(keeper)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Meanwhile a model that can't go on does not end everything: who changes it puts it right."""
        self._changing = True
        try:
            yield
        finally:
            self._changing = False
            self._changed.set()

    def _start(self, keeper: Keeper) -> None:
        self._tasks[keeper] = asyncio.create_task(keeper.run())
        self._changed.set()

    @property
    def _engines(self) -> tuple[Keeper, ...]:
        return tuple(keeper for keeper in self._tasks if keeper is not self._gateway)

    def _keepers(self) -> tuple[Keeper, ...]:
        named = self.all_keepers()
        leaving = [keeper for keeper in self._engines if keeper not in named]
        return (*named, *leaving, *((self._gateway,) if self._gateway is not None else ()))

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._asked.is_set():
            self._asked_by = number
            self._asked.set()
            return
        if number is not signal.SIGINT:  # asked twice for the same
            return
        if not self._hurried:
            self._say("stopping at once")
        self._hurried = True
        for keeper in self._keepers():
            keeper.kill()

    async def _beside(self, run: Callable[[], Coroutine[None, None, None]]) -> None:
        """What fails beside the engines is said, and ends none of them."""
        try:
            await run()
        except PenstockError as error:
            self._say(f"error: {error.message}")
        except Exception:
            for line in traceback.format_exc().splitlines():
                self._say(line)
            self._say("error: a part of the supervisor has ended by a bug; engines and gateway go on")

    async def _until_over(self) -> str:
        """Why it can't go on; empty where it was asked to stop."""
        asked = asyncio.create_task(self._asked.wait())
        over: set[asyncio.Task[None]] = set()
        try:
            while not (trouble := self._trouble()) and not self._asked.is_set():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                running = set(self._tasks.values()) - over
                done, _ = await asyncio.wait({asked, changed, *running}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                for task in running & done:
                    task.result()  # a bug of ours is not kept quiet
                    over.add(task)
        finally:
            asked.cancel()
        return trouble

    def _trouble(self) -> str:
        if self._gateway is not None and self._gateway.given_up:
            return self._gateway.given_up
        if self._changing:
            return ""
        given_up = [model.given_up for model in self.models]
        if not self._ready:  # it never will be: every model has to answer first
            return next(filter(None, given_up), "")
        if given_up and all(given_up) and not self._others_serve:
            return given_up[-1]
        return ""

    async def _watch_readiness(self) -> None:
        clock = asyncio.get_running_loop().time
        started_s = said_s = clock()
        while reason := await self._unready():
            self._on_waiting(reason)
            if clock() - said_s >= WAITING_SAID_EVERY_S:
                said_s = clock()
                self._say(f"not ready after {format_duration(said_s - started_s)}: {reason}")
            await asyncio.sleep(READY_LOOK_EVERY_S)
        self._ready = True
        self._on_ready()

    async def _stop(self, trouble: str) -> None:
        if trouble:
            self._say(f"error: {trouble}")
        if self._on_stopping is not None:
            await self._on_stopping()
        if self._gateway is not None:
            if self._ready and not trouble:
                self._say("stopping: open requests are finished first; Ctrl-C again stops at once")
            await self._gateway.stop()
        await asyncio.gather(*(keeper.stop() for keeper in self._engines))
        self._say("stopped")

    def _exit_code(self, trouble: str) -> int:
        if trouble:
            return EXIT_FAILED
        early = self._asked_by is signal.SIGINT and not self._ready
        return EXIT_INTERRUPTED if early or self._hurried else EXIT_STOPPED
