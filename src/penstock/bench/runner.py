"""One run, from settings to a report: everything that the load tester has, put together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from penstock.bench.analysis.attribution import Attributing
from penstock.bench.analysis.result import Summary
from penstock.bench.analysis.summary import summarize
from penstock.bench.analysis.validity import LIMITS, judge
from penstock.bench.beside.energy import Cost, Price
from penstock.bench.beside.pages import Readings
from penstock.bench.beside.power import PowerReadings
from penstock.bench.instruments import Instruments
from penstock.bench.load.processes import Generated, generate
from penstock.bench.options import Options
from penstock.bench.plan import Stage
from penstock.bench.prepare import Prepared, prepare
from penstock.bench.report.facts import Host, Meta, Report
from penstock.bench.report.finished import Finished, Scratch
from penstock.bench.report.folder import RowsFormat, RunFolder
from penstock.bench.report.picks import Picks
from penstock.bench.sample import Sample
from penstock.bench.settings import Settings, read
from penstock.bench.watch import Expected, Nobody, Watch
from penstock.bench.workloads.arrivals import schedule
from penstock.bench.workloads.replay import replay
from penstock.bench.workloads.traces import Trace
from penstock.bench.workloads.workload import Plan, Workload, plan


async def run(url: str, *, watch: Watch | None = None, **options: Any) -> Finished:
    """One run, for notebooks and scripts: `await bench.run(url=..., model=..., concurrency=8, requests=100)`.

    Args:
        url: base URL of an OpenAI-compatible server.
        watch: is told what goes on.
        options: see `options.Options`; the same as those of `penstock bench run`, with underscores.

    Raises:
        PenstockError: an option is wrong, or the server can't be put under load.
        TypeError: there is no such option.
    """
    return await measure(read(Options(url=url, **options)), watch)


async def measure(
    settings: Settings,
    watch: Watch | None = None,
    *,
    stop: asyncio.Event | None = None,
    known: Prepared | None = None,
    trace: Trace | None = None,
    command: str = "run",
) -> Finished:
    """One run.

    Args:
        stop: ends the load early; what was measured until then is reported.
        known: what was found out about the server before; None finds it out.
        trace: a recorded load, in place of the settings' kinds and, where it has times, of their load.
        command: which command it is, for the report.

    Raises:
        PenstockError: the folder of the run exists, the server can't be put under load, or settings are wrong.
    """
    watch = watch or Nobody()
    if settings.output is not None:
        # Made first: an old report is noticed before anything is sent.
        return await _Run(
            settings, watch, RunFolder.made(settings.output, settings.rows), stop, trace, command
        ).run(known)
    scratch = Scratch()
    folder = RunFolder(scratch.path, RowsFormat.NONE)
    finished = await _Run(settings, watch, folder, stop, trace, command).run(known)
    return replace(finished, scratch=scratch)


class _Run:
    """One run and its parts."""

    def __init__(
        self,
        settings: Settings,
        watch: Watch,
        folder: RunFolder,
        stop: asyncio.Event | None,
        trace: Trace | None,
        command: str,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._folder = folder
        self._stop = stop or asyncio.Event()
        self._trace = trace
        self._command = command

    async def run(self, known: Prepared | None) -> Finished:
        """All of it."""
        settings, folder = self._settings, self._folder
        try:
            prepared = known or await prepare(settings, self._watch)
            workload = _workload(settings, prepared)
            planned, stages = self._plan(workload)
            generated, readings, power = await self._load(prepared, planned)
        except BaseException:
            folder.forget()
            raise
        self._watch.phase("reading what came of each request")
        picks, attributing = Picks(), Attributing()
        samples = attributing.passing(picks.passing(folder.keeping(generated.samples())))
        summary = await asyncio.to_thread(
            self._summary, generated, samples, stages, readings, planned.tally.shared_part
        )
        summary.notes += planned.tally.notes()
        meta = self._meta(generated, workload, prepared)
        cost = _cost(summary.all.throughput.output_tokens, generated.wall_s, settings.price, readings, power)
        told = attributing.result()
        report = Report(
            meta, summary, readings, power, cost, picks.all(), told if told.parts or told.replicas else None
        )
        if settings.output is not None:
            folder.tidy()
            folder.write(report)
        return Finished(report, folder.path, settings.min_goodput, tuple(folder.troubles))

    def _plan(self, workload: Workload) -> tuple[Plan, list[Stage]]:
        settings, trace = self._settings, self._trace
        if trace is not None and trace.timed:
            stages = [Stage(f"replay of {trace.name}")]
            return replay(workload, trace, count=settings.requests, seed=settings.seed), stages
        times, stages = schedule(
            settings.load, duration_s=settings.duration_s, count=settings.requests, seed=settings.seed
        )
        given = None if settings.load.is_closed else times
        if trace is not None:
            planned = replay(
                workload, trace, times=given, count=settings.requests, stages=stages, seed=settings.seed
            )
        else:
            planned = plan(workload, given, settings.requests, stages, settings.seed)
        return planned, [_after_warmup(stage, settings.warmup_s) for stage in stages]

    async def _load(
        self, prepared: Prepared, planned: Plan
    ) -> tuple[Generated, Readings | None, PowerReadings | None]:
        """The load, and what is read beside it."""
        settings = self._settings
        instruments = Instruments(settings, prepared)
        closed = self._trace is None or not self._trace.timed
        generated = None
        self._watch.phase("starting the load generator")
        try:
            await instruments.start()
            self._watch.begin(self._expected(prepared))
            generated = await generate(
                settings.endpoint,
                planned,
                concurrency=settings.load.concurrency if closed else None,
                duration_s=settings.duration_s,
                processes=settings.processes,
                warmup_s=settings.warmup_s,
                ramp_s=settings.ramp_s,
                timeouts=settings.timeouts,
                spool=self._folder.spool,
                on_progress=lambda progress: self._watch.progress(progress, instruments.now),
                stop=self._stop,
                keep_answers=settings.keep_answers,
            )
        finally:
            self._watch.end()
            readings, powered = await instruments.stop(generated)
        return generated, readings, powered

    def _expected(self, prepared: Prepared) -> Expected:
        settings = self._settings
        requests = settings.requests
        duration_s = settings.duration_s
        if self._trace is not None and self._trace.timed:
            rows = len(self._trace.rows)
            requests = min(rows, requests or rows)
            duration_s = duration_s or self._trace.duration_s
        elif settings.load.kind == "staircase" and duration_s is None:
            duration_s = len(settings.load.rates) * settings.load.step_s
        title = settings.name or f"{prepared.model}, {self._load_label()}"
        return Expected(title, duration_s, requests, settings.warmup_s)

    def _load_label(self) -> str:
        if self._trace is not None and self._trace.timed:
            return f"replay of {self._trace.name}"
        return self._settings.load.label

    def _summary(
        self,
        generated: Generated,
        samples: Iterable[Sample],
        stages: Sequence[Stage],
        readings: Readings | None,
        expected_cache_share: float,
    ) -> Summary:
        summary = summarize(
            samples,
            stages,
            slo=self._settings.slo,
            client=generated.client,
            beside=readings,
            expected_cache_share=expected_cache_share,
            interrupted=generated.interrupted,
        )
        limits = msgspec.structs.replace(LIMITS, error_share_max=self._settings.max_error_rate)
        summary.verdict = judge(summary, limits)
        return summary

    def _meta(self, generated: Generated, workload: Workload, prepared: Prepared) -> Meta:
        settings, trace = self._settings, self._trace
        described = workload.describe()
        return Meta(
            endpoint=settings.endpoint.url,
            route=settings.endpoint.path,
            model=prepared.model,
            load=self._load_label(),
            workload=[*trace.describe(), *described] if trace is not None else described,
            host=Host.here(),
            command=self._command,
            name=settings.name,
            slo=settings.slo.text if settings.slo else "",
            started_at=generated.started_at,
            wall_s=generated.wall_s,
            settings={**settings.public, "seed": settings.seed, "salt": workload.salt},
            problems=[*generated.problems, *self._folder.troubles],
            rows=self._folder.rows_name,
            max_error_rate=settings.max_error_rate,
        )


def _workload(settings: Settings, prepared: Prepared) -> Workload:
    return Workload(
        model=prepared.model,
        mix=settings.mix,
        cache=settings.cache,
        calibration=prepared.calibration,
        ignore_eos=settings.ignore_eos,
        stream=settings.stream,
        cancel_share=settings.cancel_share,
        cancel_after=settings.cancel_after,
        slow_share=settings.slow_share,
        slow_bytes_per_s=settings.slow_bytes_per_s,
        extra=settings.extra,
        salt=secrets.token_hex(4),
    )


def _cost(
    output_tokens: int, wall_s: float, price: Price, readings: Readings | None, power: PowerReadings | None
) -> Cost | None:
    """The cost of the GPUs that were read: this machine's, else those of an exporter; None without any."""
    if power is not None and power.gpus:
        return power.cost(output_tokens, price)
    return readings.gpu_cost(wall_s, output_tokens, price) if readings is not None else None


def _after_warmup(stage: Stage, warmup_s: float) -> Stage:
    """A stage without the warm-up, which is in no figure."""
    begins_s = max(stage.begins_s, warmup_s)
    if stage.ends_s is not None:
        begins_s = min(begins_s, max(stage.begins_s, stage.ends_s))
    return msgspec.structs.replace(stage, begins_s=begins_s)
