"""A keeper keeps one part running: starts it, watches it, and starts it again as policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.core.errors import PenstockError
from penstock.core.units import format_duration
from penstock.policy.restart import GiveUp, RestartLimits, RestartState, after_exit
from penstock.store.runtime import PartReport, PartReports
from penstock.supervisor.exits import explained
from penstock.supervisor.parts import Part
from penstock.supervisor.process import Child, Ended, spawn

READY_LOOK_FIRST_S = 0.02
READY_LOOK_EVERY_S_MAX = 0.1
LINES_SHOWN = 5
RESTART_WITHIN_S = 5.0  # whoever is restarted has nothing left to finish


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a keeper has of the world.

    Args:
        environ: the environment that children start from.
        clock: monotonic seconds.
        chance: a number from 0 to 1, each time another.
        say: prints a line for the owner.
        reports: get how far starts have come; None tells nobody.
    """

    environ: Mapping[str, str]
    clock: Callable[[], float]
    chance: Callable[[], float]
    say: Callable[[str], None]
    reports: PartReports | None = None


class Keeper:
    """Keeps `part` running until it is stopped, or given up.

    Args:
        log: gets the output of the part.
    """

    def __init__(self, part: Part, log: Path, limits: RestartLimits, around: Surroundings) -> None:
        self.part = part
        self.became_ready = asyncio.Event()
        self.given_up = ""
        self._log = log
        self._limits = limits
        self._around = around
        self._state = RestartState()
        self._child: Child | None = None
        self._restart_cause = ""
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of its process now, if there is one."""
        return self._child.pid if self._child else None

    def loads(self, how_far: str) -> None:
        """Notes how far its start has come, in words, for who asks; nothing once it is up."""
        reports = self._around.reports
        if reports is None:
            return
        with suppress(OSError):
            if how_far:
                reports.write(PartReport(self.part.name, "running", pid=self.pid or 0, loading=how_far))
            else:
                reports.remove(self.part.name)

    async def restart(self, cause: str) -> None:
        """Ends its process, which is then started again as after any other end.

        Args:
            cause: why, as a sentence about "it".
        """
        if self._child is not None:
            self._restart_cause = cause
            await self._child.stop(RESTART_WITHIN_S)

    async def run(self) -> None:
        """Returns once it is stopped, or given up: then `given_up` says why."""
        while not self._stopping.is_set() and not self.given_up:
            self.became_ready.clear()
            ended, trouble = await self._one_life()
            if not self._stopping.is_set():
                await self._after(ended, trouble)

    async def stop(self) -> None:
        """Stops its process, in the time that the part may take."""
        self._stopping.set()
        if self._child is not None:
            await self._child.stop(self.part.stop_within_s)

    def kill(self) -> None:
        """Ends it at once."""
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    async def _one_life(self) -> tuple[Ended | None, str]:
        """How its process ended, None where it could not be started; and that in a sentence."""
        try:
            self._child = child = spawn(self.part.launch(), self._log, self._around.environ)
        except PenstockError as error:
            return None, error.message
        except OSError as error:  # no port, no room for the log
            return None, f"{self.part.name} can't be started: {error}"
        self._around.say(f"{self.part.name}: started (pid {child.pid})")
        watch = None
        try:
            self.part.started(child.pid)
            watch = asyncio.create_task(self._watch_readiness())
        except OSError as error:  # no room for its registration: nobody would find it
            child.kill()
            self._around.say(f"{self.part.name} can't be registered: {error}")
        try:
            ended = await child.ended()
        finally:
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
            self._child = None
            self.loads("")
            self.part.ended()
        cause, self._restart_cause = self._restart_cause, ""
        why = f"is restarted: {cause}" if cause else explained(ended)
        return ended, f"{self.part.name} {why}"

    async def _watch_readiness(self) -> None:
        started_s = self._around.clock()
        wait_s = READY_LOOK_FIRST_S
        while not await self.part.is_ready():
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, READY_LOOK_EVERY_S_MAX)
        self.became_ready.set()
        took = format_duration(self._around.clock() - started_s)
        self._around.say(f"{self.part.name}: up after {took}")

    async def _after(self, ended: Ended | None, trouble: str) -> None:
        self._state, decision = after_exit(
            self._state,
            was_ready=self.became_ready.is_set(),
            now_s=self._around.clock(),
            chance=self._around.chance(),
            limits=self._limits,
        )
        self.became_ready.clear()
        self._around.say(trouble)
        if isinstance(decision, GiveUp):
            for line in (ended.last_lines if ended else ())[-LINES_SHOWN:]:
                self._around.say(f"    | {line}")
            self.given_up = f"{trouble} ({decision.reason}; log: {self._log})"
            return
        self._around.say(f"{self.part.name}: starts again in {format_duration(decision.wait_s)}")
        with suppress(TimeoutError):
            async with asyncio.timeout(decision.wait_s):
                await self._stopping.wait()
