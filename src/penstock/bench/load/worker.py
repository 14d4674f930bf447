"""One load generator process: `python -m penstock.bench.load.worker`, told by its parent through pipes.

It imports little and does little: it sends, reads, takes times, and writes samples to the disk. Nothing that the
parent does or leaves undone holds it up: what can't be said at once is left out, but for the last line.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from penstock.bench.load.call import Caller
from penstock.bench.load.ceiling import measure_ceiling
from penstock.bench.load.driver import Driver
from penstock.bench.load.health import ProcessHealth, Spread
from penstock.bench.load.pacer import Pacer
from penstock.bench.load.plan_file import PlanReader
from penstock.bench.load.spool import SpoolError, SpoolWriter
from penstock.bench.load.worker_words import Begin, Ended, Job, Order, Ready, Report

REPORT_EVERY_S = 0.25
LAG_EVERY_S = 0.02
# Files that are no connections: pipes, the plan, the spool, the event loop's own.
OTHER_FILES_MAX = 32
# Young objects before they are looked through; what a request leaves behind is freed by its reference counts.
GC_THRESHOLD = 50_000
_KIB = 1024

_encode = msgspec.json.Encoder().encode
_ORDERS: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


def main() -> None:
    """Does one job and ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal's Ctrl-C is for the parent, which says what to do
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    uvloop.run(_work(job))


class _Outlet:
    """The pipe to the parent, which never holds up the load."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._left = b""
        os.set_blocking(fd, False)

    def say(self, word: Report | Ready) -> None:
        """Says it, or nothing while the parent does not listen."""
        if not self._left:
            self._left = _encode(word) + b"\n"
        try:
            self._left = self._left[os.write(self._fd, self._left) :]
        except BlockingIOError:
            return

    def say_last(self, word: Report | Ended) -> None:
        """Says it, however long that takes."""
        os.set_blocking(self._fd, True)
        left, self._left = self._left + _encode(word) + b"\n", b""
        while left:
            left = left[os.write(self._fd, left) :]


class _Worker:
    """One job while it is done."""

    def __init__(self, job: Job, orders: asyncio.StreamReader, outlet: _Outlet) -> None:
        self._orders = orders
        self._outlet = outlet
        self._caller = Caller(
            job.endpoint,
            job.timeouts,
            hosts=job.hosts,
            connections_max=_connections_max(),
            process=job.process,
            keep_answers=job.keep_answers,
        )
        self._plan = PlanReader(Path(job.plan))
        self._spool = SpoolWriter(Path(job.spool))
        self._driver = Driver(self._caller, self._plan, job.pace, self._spool.write)
        self._lag = Spread()
        self._lost: SpoolError | None = None
        self._cpu_s = 0.0
        self._told_s = self._told_cpu_s = 0.0

    async def work(self, ceiling_events_per_s: float) -> None:
        """Waits for the start, does the job, and says what came of it."""
        self._outlet.say(Ready(ceiling_events_per_s))
        order = _order(await self._orders.readline())
        if not isinstance(order, Begin):
            return
        self._caller.zero_s = order.zero_s
        _settle_garbage()
        self._cpu_s = self._told_cpu_s = time.process_time()
        problem, hint = await self._load()
        health = self._health(ceiling_events_per_s)
        self._outlet.say_last(self._progress())
        self._outlet.say_last(Ended(health=health, problem=problem, hint=hint))

    async def _load(self) -> tuple[str, str]:
        """The load, and what ended it early."""
        pacer = Pacer(self._take_lag)
        self._lag_due_s = self._caller.zero_s
        pacer.set(self._lag_due_s)
        self._pacer = pacer
        beside = [asyncio.create_task(self._obey()), asyncio.create_task(self._report())]
        try:
            await self._driver.run()
            self._spool.flush()
        except SpoolError as error:
            self._lost = error
        finally:
            for task in beside:
                task.cancel()
            pacer.close()
            self._caller.close()
            self._plan.close()
            self._spool.close()
        return ("", "") if self._lost is None else (self._lost.message, self._lost.hint)

    async def _obey(self) -> None:
        """Ends the load when the parent says so, or is no more."""
        await self._orders.readline()
        self._driver.halt()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                self._spool.flush()
            except SpoolError as error:
                self._lost = error  # told when the load has ended, which is now
                self._driver.halt()
            self._outlet.say(self._progress())

    def _take_lag(self) -> None:
        now_s = time.monotonic()
        self._lag.note(now_s - self._lag_due_s)
        self._lag_due_s = max(self._lag_due_s + LAG_EVERY_S, now_s)
        self._pacer.set(self._lag_due_s)

    def _progress(self) -> Report:
        tally, counts = self._driver.tally, self._caller.counts
        now_s, cpu_s = self._caller.now_s(), time.process_time()
        share = (cpu_s - self._told_cpu_s) / max(now_s - self._told_s, 1e-3)
        self._told_s, self._told_cpu_s = now_s, cpu_s
        report = Report(
            taken=tally.taken,
            sent=tally.sent,
            in_flight=tally.in_flight,
            completed=tally.completed,
            failed=tally.failed,
            output_tokens=counts.output_tokens,
            recent_ttft_s=counts.recent_ttft_s,
            recent_tpot_s=counts.recent_tpot_s,
            send_late_max_s=tally.late_recent_s,
            cpu_share=share,
        )
        counts.recent_ttft_s, counts.recent_tpot_s, tally.late_recent_s = [], [], 0.0
        return report

    def _health(self, ceiling_events_per_s: float) -> ProcessHealth:
        tally, counts = self._driver.tally, self._caller.counts
        return ProcessHealth(
            send_late=tally.send_late,
            loop_lag=self._lag,
            cpu_s=time.process_time() - self._cpu_s,
            wall_s=self._caller.now_s(),
            events=counts.events,
            ceiling_events_per_s=ceiling_events_per_s,
            in_flight_max=tally.in_flight_max,
            connections_opened=counts.connections_opened,
            stale_connections=counts.stale_connections,
            connections_refused_here=counts.connections_refused_here,
            plan_waits=tally.plan_waits,
            rss_max_bytes=_rss_max_bytes(),
        )


async def _work(job: Job) -> None:
    loop = asyncio.get_running_loop()
    outlet = _Outlet(sys.stdout.fileno())
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    try:
        worker = _Worker(job, orders, outlet)
    except SpoolError as error:
        outlet.say_last(Ended(ProcessHealth(Spread(), Spread()), error.message, error.hint))
        return
    await worker.work(await measure_ceiling())


def _order(line: bytes) -> Order | None:
    return _ORDERS.decode(line) if line else None


def _connections_max() -> int:
    """As many connections as the system lets one process have, which is made as much as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(1, soft - OTHER_FILES_MAX)


def _rss_max_bytes() -> int:
    """The most memory that this program held; getrusage's figure has what the parent held before it began."""
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    return next((int(line.split()[1]) * _KIB for line in told.splitlines() if line.startswith("VmHWM:")), 0)


def _settle_garbage() -> None:
    """What is there now stays; it is not looked through again and again during the load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


if __name__ == "__main__":
    main()
