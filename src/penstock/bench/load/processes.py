"""The load generators as processes: started together, watched while they send, and stopped.

They are always processes of their own: nothing that the parent does, such as drawing, reading metrics or making
more of the plan, takes time from the one that takes times. All of them share the machine's monotonic clock, on
which the parent sets one start.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.bench.load.driver import Pace
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.generator import Generator, GeneratorError
from penstock.bench.load.health import ClientHealth, Progress, client_health
from penstock.bench.load.plan_file import PlanWriter
from penstock.bench.load.reaching import hosts_of
from penstock.bench.load.spool import read_spool, spool_path
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.load.worker_words import Begin, Ended, Halt, Job, Ready, Report
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Sample

__all__ = ["ClientHealth", "Generated", "GeneratorError", "Progress", "Timeouts", "generate"]

# Far more than a machine has cores for.
PROCESSES_MAX = 64
# From the last process being ready to the start of the load: all of them have heard of it by then.
LEAD_S = 0.05
# Importing and measuring the ceiling takes half a second, on a machine that has nothing else to do.
READY_S = 30.0
# From the word to stop to the last line: closing some thousand connections and writing what is buffered.
HALT_S = 10.0
TELL_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Generated:
    """What came of a load.

    Args:
        spool: the folder of the samples.
        processes: load generators that ran.
        client: how they fared.
        interrupted: whether it ended before its time: it was told to stop, or it could not go on.
        started_at: start of the load, seconds since the epoch.
        zero_s: the same on the clock of `time.monotonic`, for what was measured beside it.
        wall_s: from the start to the end of the last request, seconds.
        problems: what went wrong with the load generators themselves; empty in a good run.
    """

    spool: Path
    processes: int
    client: ClientHealth
    interrupted: bool
    started_at: float
    zero_s: float
    wall_s: float
    problems: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """What came of each request, process by process, each in the order of their ends.

        Raises:
            SpoolError: a file was changed by somebody.
        """
        for number in range(self.processes):
            path = spool_path(self.spool, number)
            if path.exists():
                yield from read_spool(path)


async def generate(
    endpoint: Endpoint,
    plan: Iterable[PlannedRequest],
    *,
    concurrency: int | None,
    duration_s: float | None,
    processes: int = 1,
    warmup_s: float = 0.0,
    ramp_s: float = 0.0,
    timeouts: Timeouts,
    spool: Path,
    on_progress: Callable[[Progress], None],
    stop: asyncio.Event,
    keep_answers: bool = False,
) -> Generated:
    """Sends a plan and returns what came of it, also where that was cut short.

    Args:
        plan: the requests in the order of their times, the turns of a session one behind the other; read bit by
            bit, ahead of the load.
        concurrency: requests under way at once, 1 or more (closed loop); None sends each at its own time.
        duration_s: nothing is sent that is due later, seconds, and what is under way then is cut off in time; None
            sends the whole plan and waits for all answers.
        processes: load generators that share the plan, 1 to `PROCESSES_MAX`; never more than there are places.
        warmup_s: requests due earlier than this become stage -1.
        ramp_s: over which a closed loop opens its places, evenly.
        spool: a folder for the samples, made where it does not exist.
        on_progress: told some times a second.
        stop: ends the load early; what is under way is cut off.
        keep_answers: whether samples hold the text of answers.

    Raises:
        EndpointError: the endpoint can't be used at all.
        GeneratorError: a load generator could not be started.
    """
    count = max(1, min(processes, concurrency or PROCESSES_MAX, PROCESSES_MAX))
    hosts = await hosts_of(endpoint)
    endpoint.tls_context()  # a mistake in it is told here, and once
    _make(spool)
    plans = [spool / f"plan-{number}.bin" for number in range(count)]
    load = _Load(on_progress, stop)
    try:
        with PlanWriter(iter(plan), plans) as writer:
            await asyncio.to_thread(_write_plan, writer, [0] * count)
            jobs = [
                Job(
                    endpoint=endpoint,
                    hosts=hosts,
                    timeouts=timeouts,
                    pace=Pace(
                        concurrency=_share(concurrency, number, count),
                        duration_s=duration_s,
                        warmup_s=warmup_s,
                        ramp_s=ramp_s,
                        drain_s=timeouts.total_s if duration_s is None else timeouts.drain_s,
                        offset=number / count,
                    ),
                    process=number,
                    plan=str(plans[number]),
                    spool=str(spool_path(spool, number)),
                    keep_answers=keep_answers,
                )
                for number in range(count)
            ]
            await load.run(jobs, writer)
    finally:
        await load.end()
        for path in plans:
            path.unlink(missing_ok=True)
    return load.outcome(spool, duration_s, concurrency)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GeneratorError(
            f"{folder}: {error.strerror or error}", hint="give the run a folder that can be written"
        ) from None


def _write_plan(writer: PlanWriter, taken: list[int]) -> None:
    try:
        writer.write_ahead(taken)
    except OSError as error:
        raise GeneratorError(
            f"the plan can't be written: {error.strerror or error}", hint="make room on the disk of the run"
        ) from None


def _share(concurrency: int | None, number: int, count: int) -> int | None:
    """The places of process `number` of `count`; all of them together are `concurrency`."""
    if concurrency is None:
        return None
    return concurrency // count + (number < concurrency % count)


class _Load:
    """The processes of one load, from their start to their end."""

    def __init__(self, on_progress: Callable[[Progress], None], stop: asyncio.Event) -> None:
        self._on_progress = on_progress
        self._stop = stop
        self._generators: list[Generator] = []
        self._problems: list[str] = []
        self._interrupted = False
        self._zero_s = self._wall_s = 0.0
        self._started_at = 0.0

    async def run(self, jobs: list[Job], writer: PlanWriter) -> None:
        """Starts the processes and sees them through the load."""
        for job in jobs:
            self._generators.append(await Generator.start(job))
        for generator in self._generators:
            await self._expect_ready(generator)
        self._zero_s = time.monotonic() + LEAD_S
        self._started_at = time.time() + LEAD_S
        for generator in self._generators:
            generator.tell(Begin(self._zero_s))
        listeners = [asyncio.create_task(self._listen(generator)) for generator in self._generators]
        feeder = asyncio.create_task(self._feed(writer))
        teller = asyncio.create_task(self._tell_progress())
        try:
            await self._watch(listeners, feeder, teller)
            if teller.done():
                teller.result()  # raises what `on_progress` raised
        finally:
            for task in (*listeners, feeder, teller):
                task.cancel()
            await asyncio.gather(*listeners, feeder, teller, return_exceptions=True)
        self._wall_s = max((g.ended.health.wall_s for g in self._generators if g.ended), default=0.0)
        self._on_progress(self._progress())

    async def end(self) -> None:
        """Ends the processes that are still there."""
        await asyncio.gather(*(generator.end() for generator in self._generators))

    def outcome(self, spool: Path, duration_s: float | None, concurrency: int | None) -> Generated:
        """What came of it all."""
        if concurrency and duration_s and not self._interrupted and self._wall_s < duration_s:
            self._problems.append(f"the plan ended after {self._wall_s:.3g} s of {duration_s:g} s")
        return Generated(
            spool=spool,
            processes=len(self._generators),
            client=client_health([g.ended.health for g in self._generators if g.ended], os.cpu_count()),
            interrupted=self._interrupted,
            started_at=self._started_at,
            zero_s=self._zero_s,
            wall_s=self._wall_s,
            problems=tuple(self._problems),
        )

    async def _expect_ready(self, generator: Generator) -> None:
        try:
            word = await asyncio.wait_for(generator.hear(), READY_S)
        except TimeoutError:
            raise GeneratorError(
                f"load generator {generator.number} was not ready within {READY_S:g} s"
            ) from None
        if isinstance(word, Ready):
            return
        if isinstance(word, Ended):
            raise GeneratorError(word.problem, hint=word.hint)
        raise GeneratorError(
            f"load generator {generator.number} did not start: {await generator.last_words()}"
        )

    async def _watch(
        self, listeners: list[asyncio.Task[None]], feeder: asyncio.Task[None], teller: asyncio.Task[None]
    ) -> None:
        """Waits until all processes have ended, or ends them: when told to, or when somebody can't go on."""
        stopped = asyncio.create_task(self._stop.wait())
        pending: set[asyncio.Task[Any]] = {*listeners, feeder}
        try:
            while not (stopped.done() or teller.done() or self._problems) and pending - {feeder}:
                done, pending = await asyncio.wait(
                    {*pending, stopped, teller}, return_when=asyncio.FIRST_COMPLETED
                )
                pending -= {stopped, teller}
                if feeder in done and (error := feeder.exception()) is not None:
                    self._problems.append(f"the plan is cut short: {error}")
        finally:
            stopped.cancel()
        if pending - {feeder} or self._problems:
            self._interrupted = True
            for generator in self._generators:
                generator.tell(Halt())
            await asyncio.wait(listeners, timeout=HALT_S)

    async def _listen(self, generator: Generator) -> None:
        """Hears one process to its end."""
        while (word := await generator.hear()) is not None:
            if isinstance(word, Report):
                generator.note(word)
            elif isinstance(word, Ended):
                generator.ended = word
                if word.problem:
                    self._problems.append(word.problem)
        if generator.ended is None:
            self._problems.append(
                f"load generator {generator.number} broke off: {await generator.last_words()}"
            )

    async def _feed(self, writer: PlanWriter) -> None:
        """Writes the plan on, ahead of the load."""
        while not writer.complete:
            await asyncio.sleep(TELL_EVERY_S)
            await asyncio.to_thread(_write_plan, writer, [generator.taken for generator in self._generators])

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self._on_progress(self._progress())

    def _progress(self) -> Progress:
        """What the processes have reported, added up; what was of late is told once."""
        reports = [generator.report for generator in self._generators if generator.report is not None]
        ttft_s, tpot_s, late_max_s = [], [], 0.0
        for generator in self._generators:
            ttft_s += generator.recent_ttft_s
            tpot_s += generator.recent_tpot_s
            late_max_s = max(late_max_s, generator.late_max_s)
            generator.recent_ttft_s, generator.recent_tpot_s, generator.late_max_s = [], [], 0.0
        return Progress(
            elapsed_s=self._wall_s or max(0.0, time.monotonic() - self._zero_s),
            sent=sum(report.sent for report in reports),
            in_flight=sum(report.in_flight for report in reports),
            completed=sum(report.completed for report in reports),
            failed=sum(report.failed for report in reports),
            output_tokens=sum(report.output_tokens for report in reports),
            recent_ttft_s=ttft_s,
            recent_tpot_s=tpot_s,
            send_late_max_s=late_max_s,
            cpu_share=tuple(report.cpu_share for report in reports),
        )
