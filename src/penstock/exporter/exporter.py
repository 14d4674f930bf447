"""The exporter: its sources, and the families that they make together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import psutil

from penstock import __version__
from penstock.exporter import engines, gpus, host
from penstock.exporter.engines import Engines, Page, engine_families
from penstock.exporter.gpus import gpu_families
from penstock.exporter.host import host_families
from penstock.exporter.notes import Notes
from penstock.exporter.owners import Owner, by_pid, kin
from penstock.exporter.watch import Watch
from penstock.telemetry.families import Families, Family, Gathered, exposition
from penstock.telemetry.gpu_driver import Driver, GpuReading, Sight, read_within
from penstock.telemetry.nvml import hangs
from penstock.telemetry.xids import xid

ONCE_WITHIN_S = 20.0
"""How long the driver may take where everything is read one time."""

_Found = TypeVar("_Found")


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"penstock_exporter_{name}", "gauge", text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"penstock_exporter_{name}_total", "counter", text, labels)


INFO = _gauge("build_info", "The version that runs; 1.", "version")
READ_SECONDS = _gauge("read_seconds", "How long the last reading of a source took.", "source")
READ_AGE = _gauge("read_age_seconds", "Time since the last reading of a source.", "source")
READS = _counter("reads", "Readings of a source.", "source")
ERRORS = _counter("errors", "Readings that failed, by source and reason.", "source", "reason")
CPU = _counter("cpu_seconds", "Processor time of the exporter itself.")
RESIDENT = _gauge("memory_bytes", "Memory of the exporter itself.")
OTLP_AGE = _gauge("otlp_age_seconds", "Time since the OTLP endpoint took what was pushed.")

CATALOG: tuple[tuple[str, tuple[Family, ...]], ...] = (
    ("GPUs: by NVML, each with its index, its UUID and its name", gpus.METRICS),
    ("Host", host.METRICS),
    ("Engines: one vocabulary, whatever an engine calls it", engines.METRICS),
    ("The exporter itself", (INFO, READ_SECONDS, READ_AGE, READS, ERRORS, CPU, RESIDENT, OTLP_AGE)),
)
"""Every metric that the exporter may show, by subject; `docs/reference/exporter.md` is made from this."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read.

    Args:
        driver: of the GPUs.
        places: folders whose disks are shown, by what they are for.
        engines: pages of the replicas.
        owners: replicas of this machine, with their processes.
    """

    driver: Driver
    places: Mapping[str, Path]
    engines: Engines
    owners: Callable[[], Iterable[Owner]]


class Exporter:
    """Reads the sources while it runs; makes families of what they said last.

    Args:
        every_s: seconds from one reading to the next.
        now_s: a clock.
        notes: takes what goes wrong.
    """

    def __init__(self, sources: Sources, every_s: float, now_s: Callable[[], float], notes: Notes) -> None:
        self._sources = sources
        self._every_s = every_s
        self._now_s = now_s
        self._notes = notes
        self._errors: dict[tuple[str, str], int] = {}
        self._xids: dict[str, int] = {}
        self._gpu = self._watch(gpus.SOURCE, sources.driver.read)
        self._host = self._watch(host.SOURCE, lambda: host_families(sources.places))
        self._engines_at_s = now_s()
        self._process = psutil.Process()
        self.otlp_age_s: Callable[[], float | None] = lambda: None

    async def run(self) -> None:
        """Reads until it is cancelled."""
        self._gpu.start()
        self._host.start()
        try:
            while True:
                begun_s = self._now_s()
                await self._read_engines()
                self._judge()
                await asyncio.sleep(max(0.0, begun_s + self._every_s - self._now_s()))
        finally:
            self._host.stop()
            self._gpu.stop()

    async def once(self) -> None:
        """Reads everything one time, here."""
        driver = self._sources.driver
        self._gpu = self._watch(gpus.SOURCE, lambda: read_within(driver, ONCE_WITHIN_S))
        self._gpu.read_once()
        self._host.read_once()
        await self._read_engines()
        self._judge()

    @property
    def sight(self) -> Sight:
        """What the GPUs told last, or why they tell nothing."""
        latest = self._gpu.latest
        if latest is not None:
            return latest.found
        return Sight(
            trouble=hangs(self._gpu.silent_s) if self._gpu.silent_s > self._gpu.stale_after_s else None
        )

    @property
    def pages(self) -> Sequence[Page]:
        """What the replicas' pages said last."""
        return self._sources.engines.pages

    def families(self) -> list[Gathered]:
        """All that is known now."""
        families = Families()
        sight = self.sight
        if sight.gpus or sight.trouble:
            gpu_families(families, sight, by_pid(self._sources.owners()), lru_cache(maxsize=None)(kin))
        latest = self._host.latest
        host_found = list(latest.found) if latest is not None else []
        engine_families(families, self.pages)
        self._add_own(families)
        return [*families, *host_found]

    def page(self) -> bytes:
        """The text for Prometheus."""
        return exposition(self.families())

    # -- own ------------------------------------------------------------------------------------------

    def _watch(self, name: str, read: Callable[[], _Found]) -> Watch[_Found]:
        return Watch(name, read, self._every_s, self._now_s, self._on_error)

    async def _read_engines(self) -> None:
        try:
            await self._sources.engines.read()
        except Exception as error:  # as of the other sources
            self._on_error(engines.SOURCE, error)
        self._engines_at_s = self._now_s()

    def _judge(self) -> None:
        """Notes what is wrong, and what is well again."""
        trouble = self.sight.trouble
        if trouble is not None:
            self._count(gpus.SOURCE, trouble.reason)
            self._notes.wrong(gpus.SOURCE, trouble.reason, trouble.message, trouble.hint)
        elif self.sight.gpus:
            self._notes.well(gpus.SOURCE)
        for gpu in self.sight.gpus:
            place = f"gpu {gpu.index} ({gpu.uuid})"
            if gpu.lost:
                self._notes.wrong(place, "lost", f"{gpu.name} does not answer", "look for its Xid in dmesg")
            else:
                self._notes.well(place)
            self._hear(gpu, place)
        self._judge_pages()

    def _hear(self, gpu: GpuReading, place: str) -> None:
        """Tells of the newest Xid, where there was one since the last time."""
        heard = sum(gpu.xids.values())
        if heard > self._xids.get(gpu.uuid, 0):
            known = xid(gpu.last_xid)
            self._notes.happened(
                "gpu_xid", place, f"xid_{known.code}", known.text, f"it asks for: {known.action}"
            )
        self._xids[gpu.uuid] = heard

    def _judge_pages(self) -> None:
        prefix = "replica "
        for page in self.pages:
            place = f"{prefix}{page.target.replica}"
            if page.failure is None:
                self._notes.well(place)
            else:
                self._count(engines.SOURCE, page.failure)
                self._notes.wrong(
                    place,
                    page.failure,
                    f"{page.target.address}{page.target.spec.metrics_path}: {page.detail}",
                )
        here = frozenset(f"{prefix}{page.target.replica}" for page in self.pages)
        self._notes.forget(here, prefix)

    def _on_error(self, source: str, error: Exception) -> None:
        self._count(source, "bug")
        self._notes.wrong(source, "bug", repr(error), "please report it")

    def _count(self, source: str, reason: str) -> None:
        key = source, str(reason)  # a plain text: it is read by other threads, and an enum's hash runs Python
        self._errors[key] = self._errors.get(key, 0) + 1

    def _add_own(self, families: Families) -> None:
        families.add(INFO, 1, __version__)
        for watch in (self._gpu, self._host):
            families.add(READS, watch.reads, watch.name)
            families.add(READ_AGE, watch.silent_s, watch.name)
            if (latest := watch.latest) is not None:
                families.add(READ_SECONDS, latest.took_s, watch.name)
        families.add(READS, self._sources.engines.reads, engines.SOURCE)
        families.add(READ_AGE, self._now_s() - self._engines_at_s, engines.SOURCE)
        families.add(READ_SECONDS, self._sources.engines.took_s, engines.SOURCE)
        for (source, reason), count in {**_NO_ERRORS, **self._errors}.items():
            families.add(ERRORS, count, source, reason)
        times = os.times()
        families.add(CPU, times.user + times.system)
        families.add(RESIDENT, self._process.memory_info().rss)
        if (age_s := self.otlp_age_s()) is not None:
            families.add(OTLP_AGE, age_s)


_NO_ERRORS: dict[tuple[str, str], int] = {
    **{(engines.SOURCE, failure.value): 0 for failure in engines.Failure},
    **{(source, "bug"): 0 for source in (gpus.SOURCE, host.SOURCE, engines.SOURCE)},
}
"""Series that are there before their first error, so that its increase can be seen."""
