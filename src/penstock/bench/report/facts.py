"""What every form of a report is made from: a run's figures, and how they came about."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock import __version__
from penstock.bench.analysis.attribution import Attribution
from penstock.bench.analysis.result import Part, Percentile, Summary
from penstock.bench.analysis.slo import parse_slo
from penstock.bench.beside.energy import Cost
from penstock.bench.beside.pages import Readings
from penstock.bench.beside.power import PowerReadings
from penstock.bench.report.charts import Series, run_charts
from penstock.bench.report.drawing import Charts
from penstock.bench.report.picks import Pick
from penstock.bench.report.shown import shown

META_VERSION = 1


class Host(msgspec.Struct, frozen=True):
    """The machine that the load came from."""

    system: str
    machine: str
    cores: int
    python: str

    @classmethod
    def here(cls) -> Host:
        """This machine."""
        return cls(
            f"{platform.system()} {platform.release()}",
            platform.machine(),
            len(os.sched_getaffinity(0)),
            platform.python_version(),
        )


class Meta(msgspec.Struct, frozen=True):
    """How a run came about: the file `meta.json`.

    Args:
        command: `run`, `sweep`, `replay` and so on.
        name: of the run, for people; empty where it has none.
        endpoint: the base URL.
        route: such as `/v1/chat/completions`.
        load: the arrivals in words.
        workload: what was sent, in sentences.
        slo: the limits as text; empty where there are none.
        started_at: start of the load, seconds since the epoch.
        wall_s: how long it lasted, seconds.
        settings: all options as they were in force, without secrets.
        problems: what went wrong with the load tester itself.
        rows: the file of single requests in the run's folder; empty where there is none.
        max_error_rate: the share of failures that a run may have, 0 to 1.
    """

    endpoint: str
    model: str
    load: str
    workload: list[str]
    host: Host
    meta_version: int = META_VERSION
    penstock: str = __version__
    command: str = "run"
    name: str = ""
    route: str = ""
    slo: str = ""
    started_at: float = 0.0
    wall_s: float = 0.0
    settings: dict[str, Any] = {}
    problems: list[str] = []
    rows: str = ""
    max_error_rate: float = 0.01


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Args:
        readings: of engines and gateways beside the load; None where nobody read.
        power: of the GPUs; None where nobody read.
        cost: joules and money; None where they are not known.
        picks: requests to draw one by one.
        attribution: where the time went, as a gateway tells; None where none does.
    """

    meta: Meta
    summary: Summary
    readings: Readings | None = None
    power: PowerReadings | None = None
    cost: Cost | None = None
    picks: Sequence[Pick] = field(default=())
    attribution: Attribution | None = None

    @property
    def title(self) -> str:
        """One line that tells it from others."""
        return self.meta.name or f"{self.meta.model}, {self.meta.load}"

    def charts(self) -> Charts:
        """Its pictures."""
        return run_charts(
            self.summary,
            self.picks,
            engine=self.readings.series if self.readings else None,
            gpus=_by_name(self.power) if self.power else None,
            limits_s=parse_slo(self.meta.slo).limits_s if self.meta.slo else None,
        )

    def notes(self) -> list[str]:
        """What the reader of the numbers must know, in sentences."""
        beside = [*(self.readings.notes if self.readings else ()), *(self.power.notes if self.power else ())]
        return [*self.meta.problems, *self.summary.notes, *beside]


def _by_name(power: PowerReadings) -> dict[str, Series]:
    """The series of each GPU; several of one name are numbered."""
    several = len({gpu.name for gpu in power.gpus}) < len(power.gpus)
    return {f"{at}: {gpu.name}" if several else gpu.name: gpu.series for at, gpu in enumerate(power.gpus)}


def part_rows(summary: Summary) -> list[Part]:
    """The parts that a table has a line for: prompt types or stages or both, and all of it at last."""
    parts = summary.cells or [*summary.kinds, *summary.stages]
    return [*parts, summary.all] if len(parts) > 1 else [summary.all]


def percentile_of(part: Part, measure: str, p: float) -> Percentile | None:
    """A percentile of a measure of a part; None where it has no such measure."""
    spread = part.measures.get(measure)
    return spread.at(p) if spread is not None else None


def told(percentile: Percentile | None, unit: str) -> str:
    """A percentile for people; `few` where there are not enough samples for it."""
    if percentile is None:
        return "-"
    return shown(percentile.value, unit) if percentile.value is not None else "few"


def interval(percentile: Percentile | None, unit: str) -> str:
    """Its interval for people: `198 to 220 ms`; empty where there is none."""
    if percentile is None or percentile.value is None:
        return ""
    low, high = (shown(end, unit) if end is not None else "?" for end in (percentile.low, percentile.high))
    if low == high == "?":
        return ""
    number, _, suffix = low.rpartition(" ")
    # A unit that both have is written once.
    return f"{number if number and high.endswith(f' {suffix}') else low} to {high}"
