"""A sweep: each kind of prompt under each load, one run after the other, as a matrix."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.bench.analysis.result import Part, Verdict, VerdictKind
from penstock.bench.beside.series import mean
from penstock.bench.prepare import Prepared, prepare_several
from penstock.bench.report.finished import EXIT_FAILED, EXIT_INTERRUPTED, Finished
from penstock.bench.runner import measure
from penstock.bench.settings import Settings, SettingsError
from penstock.bench.watch import Watch
from penstock.bench.workloads.arrivals import Load
from penstock.bench.workloads.kinds import mix_of

# Each of them is a run; a matrix of more takes a day.
CELLS_MAX = 256
_GPU_MEANS = ("utilization_percent", "memory_used_mib", "power_w")
_WORST_FIRST = list(VerdictKind)


class Cell(msgspec.Struct, frozen=True):
    """One run of a sweep.

    Args:
        kind: of prompts.
        load: such as `concurrency 8`.
        level: the concurrency or the rate: the x of charts.
        folder: of the run, beside `sweep.json`; empty where nothing was kept.
        part: the figures of the whole run.
        gpu: means over the run, of all GPUs: utilisation (percent), memory (MiB) and power (W).
    """

    kind: str
    load: str
    level: float
    folder: str
    part: Part
    verdict: Verdict
    interrupted: bool = False
    troubles: list[str] = []
    gpu: dict[str, float] = {}


class Sweep(msgspec.Struct):
    """A whole sweep: the file `sweep.json`.

    Args:
        closed: whether levels are requests under way, and not rates.
        planned: cells in all; fewer were done where it was interrupted.
    """

    endpoint: str
    model: str
    closed: bool
    planned: int
    cells: list[Cell] = []
    workload: list[str] = []
    settings: dict[str, Any] = {}
    started_at: float = 0.0
    slo: str = ""
    name: str = ""

    @property
    def kinds(self) -> list[str]:
        """The kinds, in their order."""
        return list(dict.fromkeys(cell.kind for cell in self.cells))

    @property
    def interrupted(self) -> bool:
        """Whether cells are missing."""
        return len(self.cells) < self.planned or any(cell.interrupted for cell in self.cells)

    @property
    def worst(self) -> Verdict | None:
        """The verdict of the cell that can be stood behind least."""
        verdicts = [cell.verdict for cell in self.cells]
        return min(verdicts, key=lambda verdict: _WORST_FIRST.index(verdict.kind)) if verdicts else None

    @property
    def exit_code(self) -> int:
        """Of the command that made it."""
        if any(cell.troubles for cell in self.cells):
            return EXIT_FAILED
        if self.interrupted:
            return EXIT_INTERRUPTED
        return self.worst.exit_code if self.worst else EXIT_FAILED


def levels(text: str, *, whole: bool) -> list[float]:
    """The loads that `1,2,4..64` stands for: from 4 to 64 by doubling.

    Args:
        whole: they are whole numbers, as requests under way are.

    Raises:
        SettingsError: it stands for none.
    """
    found: list[float] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        try:
            begin, end = float(low), float(high) if dots else float(low)
        except ValueError:
            raise _no_levels(text) from None
        if not 0 < begin <= end < 1e9 or (whole and not (begin.is_integer() and end.is_integer())):
            raise _no_levels(text)
        while begin < end:
            found.append(begin)
            begin *= 2
        found.append(end)
    return list(dict.fromkeys(found))


def _no_levels(text: str) -> SettingsError:
    return SettingsError(f"{text!r} is no list of loads", hint="write 1,2,4,8 or 1..64, which doubles")


async def sweep(
    settings: Settings,
    loads: Sequence[Load],
    watch: Watch,
    stop: asyncio.Event,
) -> Sweep:
    """Runs all cells, kind by kind, each from the least load to the highest.

    Args:
        settings: of each cell, but for load and folder; each kind of their mix is sent alone.
        stop: ends it; what was done until then is told.

    Raises:
        PenstockError: see `measure`.
    """
    plan = [(kind, load) for kind in settings.mix.kinds for load in loads]
    if not 1 <= len(plan) <= CELLS_MAX:
        raise SettingsError(f"a sweep of {len(plan)} runs; it should be 1 to {CELLS_MAX}")
    known = await prepare_several(settings, watch)
    swept = Sweep(
        endpoint=settings.endpoint.url,
        model=known.model,
        closed=loads[0].is_closed,
        planned=len(plan),
        settings={**settings.public, "seed": settings.seed},
        slo=settings.slo.text if settings.slo else "",
        name=settings.name,
    )
    for number, (kind, load) in enumerate(plan, start=1):
        if stop.is_set():
            break
        name = f"{number:02d}-{kind.name}-{_file_name(load)}"
        of_cell = msgspec.structs.replace(
            settings,
            mix=mix_of([(kind, 1.0)]),
            load=load,
            output=settings.output / name if settings.output is not None else None,
            name=f"{kind.name}, {load.label} ({number} of {len(plan)})",
        )
        await _add(swept, of_cell, known, watch, stop)
    return swept


async def _add(swept: Sweep, settings: Settings, known: Prepared, watch: Watch, stop: asyncio.Event) -> None:
    finished = await measure(settings, watch, stop=stop, known=known, command="sweep")
    load = settings.load
    summary = finished.summary
    swept.started_at = swept.started_at or finished.report.meta.started_at
    swept.workload = swept.workload or finished.report.meta.workload
    swept.cells.append(
        Cell(
            kind=settings.mix.kinds[0].name,
            load=load.label,
            level=float(load.concurrency) if load.concurrency is not None else load.rates[0],
            folder=settings.output.name if settings.output is not None else "",
            part=summary.all,
            verdict=finished.verdict,
            interrupted=summary.interrupted,
            troubles=[*finished.troubles, *finished.report.meta.problems],
            gpu=dict(_gpu(finished)),
        )
    )


def _gpu(finished: Finished) -> Iterator[tuple[str, float]]:
    power = finished.report.power
    if power is None:
        return
    window = finished.summary.all.window
    for member in _GPU_MEANS:
        means = [mean(gpu.series.get(member, []), window.begins_s, window.ends_s) for gpu in power.gpus]
        known = [value for value in means if value is not None]
        if known:
            yield member, sum(known) / (len(known) if member == "utilization_percent" else 1)


def _file_name(load: Load) -> str:
    return f"c{load.concurrency}" if load.is_closed else f"r{load.rates[0]:g}"


def read_sweep(path: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        SettingsError: there is none.
    """
    try:
        return msgspec.json.decode((path / "sweep.json").read_bytes(), type=Sweep)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path}: no sweep can be read: {error}") from None
