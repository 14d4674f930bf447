"""The GPUs of this machine beside a load: read every second, logged as nvidia-smi would, and their energy added up.

A machine without a GPU is no failure: readings are empty and say why. NVML waits for the driver, so it is asked in a
thread; a reading that takes longer than a tick leaves out the ticks that it overran.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from io import FileIO
from pathlib import Path

import msgspec

from penstock.bench.beside.energy import Cost, Price, cost, energy_j
from penstock.bench.beside.gpu import GpuReading, Gpus, local_gpus
from penstock.bench.beside.gpu_log import HEADER, row
from penstock.bench.beside.series import Point, Series
from penstock.core.errors import PenstockError
from penstock.telemetry.nvml import NoGpuError

EVERY_S = 1.0
_COUNTER = "energy_mj"  # the one of a reading's members that only grows


class GpuLogError(PenstockError):
    """The log of the GPUs can't be written."""

    code = "gpu_log"


class GpuReadings(msgspec.Struct):
    """One GPU over the load.

    Args:
        series: member of `GpuReading` -> points; `energy_mj` is its growth.
        energy_j: over the whole load, joules; None where it tells neither energy nor power.
    """

    name: str
    series: dict[str, list[Point]]
    energy_j: float | None


class PowerReadings(msgspec.Struct):
    """All GPUs of this machine over the load; `notes` says why there are none, or what went wrong."""

    gpus: list[GpuReadings]
    seconds: float
    notes: list[str]

    @property
    def energy_j(self) -> float | None:
        """Joules of all GPUs; None where none tells."""
        told = [gpu.energy_j for gpu in self.gpus if gpu.energy_j is not None]
        return sum(told) if told else None

    def cost(self, output_tokens: int, price: Price) -> Cost:
        """The cost of the load that generated `output_tokens`."""
        return cost(self.energy_j, self.seconds, len(self.gpus), output_tokens, price)


class Power:
    """Reads the GPUs from `start` to `stop`.

    Args:
        gpus: opens them; raises `NoGpuError` where there are none.
        log: the file for `--gpu-log`; written anew.
        every_s: seconds from one reading to the next.
        now_s: the clock of the samples.
        today: local time, for the log.
    """

    def __init__(
        self,
        gpus: Callable[[], Gpus] = local_gpus,
        *,
        log: Path | None = None,
        every_s: float = EVERY_S,
        now_s: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._open = gpus
        self._log = log
        self._every_s = every_s
        self._now_s = now_s
        self._today = today
        self._gpus: Gpus | None = None
        self._file: FileIO | None = None
        self._series: list[dict[str, Series]] = []
        self._notes: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the GPUs and the log, reads once, and goes on in the background.

        Raises:
            GpuLogError: the log can't be opened.
        """
        if self._log is not None:
            self._file = _opened(self._log)
        try:
            self._gpus = await asyncio.to_thread(self._open)
        except NoGpuError as error:
            self._notes.append(f"no GPU is read: {error.message}")
            return
        self._series = [{} for _ in self._gpus.names]
        await self._read(self._gpus)
        self._task = asyncio.create_task(self._watch(self._gpus))

    async def stop(self, origin_s: float, ends_s: float | None = None) -> PowerReadings:
        """Reads a last time, and returns all.

        Args:
            origin_s: the start of the load, on the clock `now_s`.
            ends_s: its end, seconds after that; None is now.
        """
        if self._task is not None:
            self._task.cancel()
            (ended,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(ended, Exception):
                self._notes.append(f"the reader of the GPUs failed: {ended!r}")
        if self._gpus is not None:
            await self._read(self._gpus)
            await asyncio.to_thread(self._gpus.close)
        if self._file is not None:
            self._file.close()
        seconds = self._now_s() - origin_s if ends_s is None else ends_s
        names = self._gpus.names if self._gpus is not None else []
        gpus = [
            _of(name, series, origin_s, seconds) for name, series in zip(names, self._series, strict=True)
        ]
        return PowerReadings(gpus, seconds, self._notes)

    async def _watch(self, gpus: Gpus) -> None:
        begun_s, ticks = self._now_s(), 0
        while True:
            ticks = max(ticks, int((self._now_s() - begun_s) / self._every_s)) + 1
            await asyncio.sleep(begun_s + ticks * self._every_s - self._now_s())
            await self._read(gpus)

    async def _read(self, gpus: Gpus) -> None:
        asked_s = self._now_s()
        readings = await asyncio.to_thread(gpus.read)
        at_s = (asked_s + self._now_s()) / 2
        for series, reading in zip(self._series, readings, strict=True):
            for member, value in msgspec.structs.asdict(reading).items():
                if value is not None:
                    series.setdefault(member, Series(counter=member == _COUNTER)).add(at_s, value)
        self._write(readings)

    def _write(self, readings: list[GpuReading]) -> None:
        if self._file is None:
            return
        at = self._today()
        try:
            self._file.write("".join(f"{row(at, reading)}\n" for reading in readings).encode())
        except OSError as error:
            self._notes.append(f"{self._log}: {error.strerror or error}; the log of the GPUs ends here")
            self._file.close()
            self._file = None


def _opened(log: Path) -> FileIO:
    """The log with its header; unbuffered, so that it can be followed, and closed on a full disk."""
    file = None
    try:
        file = FileIO(log, "w")
        file.write(f"{HEADER}\n".encode())
    except OSError as error:
        if file is not None:
            file.close()
        raise GpuLogError(
            f"{log}: {error.strerror or error}", hint="name a file in a folder that can be written to"
        ) from None
    return file


def _of(name: str, series: dict[str, Series], origin_s: float, seconds: float) -> GpuReadings:
    points = {member: each.points(origin_s) for member, each in series.items()}
    energy = energy_j(points.get("power_w", []), points.get(_COUNTER, []), 0.0, seconds)
    return GpuReadings(name, points, energy)
