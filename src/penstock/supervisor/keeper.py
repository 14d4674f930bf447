"""A keeper keeps one part running: starts it, watches it, and starts it again as policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from penstock.core.errors import PenstockError
from penstock.core.units import format_duration, format_size
from penstock.policy import start
from penstock.policy.restart import GiveUp, RestartLimits, RestartState, after_exit
from penstock.store.runtime import PartReport
from penstock.supervisor import procfs
from penstock.supervisor.exits import Explanation, explained
from penstock.supervisor.gpus import GpuUsers
from penstock.supervisor.logfile import LogFile
from penstock.supervisor.parts import Part
from penstock.supervisor.process import Child, Ended, spawn
from penstock.supervisor.reports import Reporter, Reports
from penstock.supervisor.trees import Trees

READY_LOOK_FIRST_S = 0.02
READY_LOOK_EVERY_S_MAX = 0.1
PROGRESS_LOOK_EVERY_S = 5.0  # or a fourth of what a start may be silent for, where that is less
GPU_FREE_WITHIN_S = 60.0  # a driver lets go within seconds; what takes longer does not end by waiting
GPU_LOOK_EVERY_S = 0.2
GPU_ANSWER_WITHIN_S = 10.0  # a driver may hang
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
        trees: makes the process trees of children.
        reports: gets what becomes of the part; None tells nobody.
        gpu_users: who holds memory on which GPUs; None where nobody can say.
    """

    environ: Mapping[str, str]
    clock: Callable[[], float]
    chance: Callable[[], float]
    say: Callable[[str], None]
    trees: Trees = field(default_factory=Trees)
    reports: Reports | None = None
    gpu_users: GpuUsers | None = None


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
        self._former: frozenset[int] = frozenset()
        self._beside = ""
        self._hung = ""
        self._restart_cause = ""
        self._unregistered = ""
        self._stopping = asyncio.Event()
        self._report = Reporter(
            around.reports,
            PartReport(part.name, "stopped", part.model_name, part.engine, log=str(log)),
        )

    @property
    def pid(self) -> int | None:
        """Of its process now, if there is one."""
        return self._child.pid if self._child else None

    def loads(self, how_far: str) -> None:
        """Notes how far its start has come, in words, for who asks; nothing once it is up."""
        self._report(loading=how_far)

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
            ended, why = await self._one_life()
            if not self._stopping.is_set():
                await self._after(ended, why)
        self.part.left()
        if self._stopping.is_set():
            self._report.forget()

    async def stop(self) -> None:
        """Stops its process, in the time that the part may take."""
        self._stopping.set()
        if self._child is not None:
            await self._child.stop(self.part.stop_within_s)
        self._report.forget()

    def kill(self) -> None:
        """Ends it at once."""
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    async def _one_life(self) -> tuple[Ended | None, Explanation]:
        """How its process ended, None where it could not be started; and why, in a sentence."""
        name = self.part.name
        self._hung = self._restart_cause = self._unregistered = ""
        try:
            await self._let_gpus_go()
            child = await self._spawn()
        except PenstockError as error:
            return None, Explanation("; ".join(filter(None, (f"{name}: {error.message}", error.hint))))
        except OSError as error:  # no room for the log or the record
            return None, Explanation(f"{name} can't be started: {error}", disk_failed=True)
        if child is None:
            return None, Explanation(f"{name} was stopped before it was started")
        self._child = child
        self._around.say(f"{name}: started (pid {child.pid})")
        self._report(life="running", why="", pid=child.pid, gpus=self.part.gpus, next_start_at=0.0)
        watch = None
        try:
            self.part.started(child.pid)
            watch = asyncio.create_task(self._watch_start(child))
        except OSError as error:  # no room for its registration
            self._unregistered = (
                f"{name} can't be registered: {error}; nobody would find it, and so it was ended"
            )
            child.kill()
        try:
            ended = await child.ended()
        finally:
            if watch is not None:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
            self._former = child.pids
            self._child = None
            with suppress(OSError):  # what stays registered is passed over: its process is gone
                self.part.ended()
        return ended, self._why(ended)

    async def _spawn(self) -> Child | None:
        """Its process; None where it was stopped meanwhile."""
        launch = self.part.launch()
        await self._look_beside()
        if self._stopping.is_set():
            return None
        log = LogFile(self._log, on_trouble=_from_thread(self._around.say))
        planted = self._around.trees.plant(self.part.name, self.part.model_name, launch.cleanup)
        return spawn(launch, log, self._around.environ, planted)

    async def _watch_start(self, child: Child) -> None:
        began_s = self._around.clock()
        state, looked_s, wait_s = start.begin(began_s), began_s, READY_LOOK_FIRST_S
        look_every_s = min(PROGRESS_LOOK_EVERY_S, self.part.start_silence_s / 4)
        while not await self.part.is_ready():
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, READY_LOOK_EVERY_S_MAX)
            now_s = self._around.clock()
            if now_s - looked_s < look_every_s:
                continue
            looked_s, state = now_s, start.after_look(state, child.progress(), now_s)
            self._hung = start.overdue(state, now_s, self.part.start_silence_s)
            if self._hung:
                child.kill()
                return
        self.became_ready.set()
        took = format_duration(self._around.clock() - began_s)
        self._around.say(f"{self.part.name}: up after {took}")
        self._report(loading="")

    def _why(self, ended: Ended) -> Explanation:
        name = self.part.name
        cause, self._restart_cause = self._restart_cause, ""
        if cause:
            return Explanation(f"{name} is restarted: {cause}")
        if self._hung:
            return Explanation(
                f"{name} hung before it was ready and was ended: {self._hung}; look at its log, and raise "
                "models.N.start_timeout if it needs longer"
            )
        if self._unregistered:
            return Explanation(self._unregistered, disk_failed=True)
        why = explained(ended, self.part.causes, was_ready=self.became_ready.is_set())
        more = [self._beside] if self._beside and ended.returncode else []
        if ended.stuck:
            pids = ", ".join(map(str, ended.stuck))
            more.append(
                f"pid {pids} can't be ended, which is the kernel's or a driver's fault: the machine may need a restart"
            )
        if ended.trouble:
            more.append(ended.trouble)
        return Explanation("; ".join((f"{name} {why.sentence}", *more)), why.evidence, why.port_taken)

    async def _after(self, ended: Ended | None, why: Explanation) -> None:
        self._state, decision = after_exit(
            self._state,
            was_ready=self.became_ready.is_set(),
            now_s=self._around.clock(),
            chance=self._around.chance(),
            limits=self._limits,
            port_taken=why.port_taken,
            disk_failed=why.disk_failed,
        )
        if self._hung:
            decision = GiveUp("it never became ready")
        self.became_ready.clear()
        tries_on = why.disk_failed and self._state.has_been_ready
        sentence = f"{why.sentence}; it is tried until that can be written" if tries_on else why.sentence
        self._around.say(sentence)
        if isinstance(decision, GiveUp):
            for line in (ended.last_lines if ended else ())[-LINES_SHOWN:]:
                self._around.say(f"    | {line}")
            self.given_up = f"{why.sentence} ({decision.reason}; log: {self._log})"
            self._report(life="given_up", why=self.given_up, last_exit=why.sentence, pid=0, loading="")
            return
        self._around.say(f"{self.part.name}: starts again in {format_duration(decision.wait_s)}")
        self._report.waits(sentence, decision.wait_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(decision.wait_s):
                await self._stopping.wait()

    async def _let_gpus_go(self) -> None:
        """Waits until the driver names none of its former processes any more, or says why it goes on."""
        began_s, said = self._around.clock(), False
        while (holding := self._former & (await self._users()).keys()) and not self._stopping.is_set():
            pids = ", ".join(map(str, sorted(holding)))
            if self._around.clock() - began_s >= GPU_FREE_WITHIN_S:
                self._around.say(
                    f"{self.part.name}: pid {pids} has ended but its GPU's memory is still not free after "
                    f"{format_duration(GPU_FREE_WITHIN_S)}; started all the same: if it fails, reset that GPU "
                    "(nvidia-smi --gpu-reset)"
                )
                return
            if not said:
                said = True
                self._around.say(f"{self.part.name}: waits until the GPU has freed the memory of pid {pids}")
            await asyncio.sleep(GPU_LOOK_EVERY_S)

    async def _look_beside(self) -> None:
        """Says which other processes hold memory on its GPUs."""
        own = self._around.trees.pids()
        others = [
            f"pid {pid} ({procfs.program(pid)}) holds {format_size(size)}"
            for pid, size in sorted((await self._users()).items())
            if pid not in own
        ]
        gpus = ", ".join(map(str, self.part.gpus))
        self._beside = f"on its GPU {gpus}, {'; '.join(others)}" if others else ""
        if others:
            self._around.say(f"{self.part.name}: {self._beside}")

    async def _users(self) -> Mapping[int, int]:
        """Who holds memory on its GPUs; nobody where the driver does not say."""
        ask, gpus = self._around.gpu_users, self.part.gpus
        if ask is None or not gpus:
            return {}
        with suppress(PenstockError, TimeoutError):
            async with asyncio.timeout(GPU_ANSWER_WITHIN_S):
                return await asyncio.to_thread(ask, gpus)
        return {}


def _from_thread(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say`, for another thread."""
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(say, line)

    return tell
