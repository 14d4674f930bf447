"""A search: runs at the loads that `search` asks for, until it has found the highest one that meets the SLO."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from penstock.bench.analysis.result import Part, Summary, Verdict, VerdictKind
from penstock.bench.analysis.search import (
    Found,
    SearchSettings,
    Trial,
    Try,
    next_step,
    outcome,
    requests_needed,
)
from penstock.bench.prepare import Prepared, prepare_several
from penstock.bench.report.finished import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOT_GOOD_ENOUGH
from penstock.bench.runner import measure
from penstock.bench.settings import Settings, SettingsError
from penstock.bench.watch import Watch
from penstock.bench.workloads.arrivals import Load

# A trial at a very low rate is not made longer than this for the sake of its number of requests.
TRIAL_MAX_S = 600.0


class Tried(msgspec.Struct, frozen=True):
    """One run of a search.

    Args:
        why: it was tried.
        outcome: of its load, after this run: `met`, `missed` or `unsure`.
        folder: of the run, beside `search.json`; empty where nothing was kept.
    """

    trial: Trial
    why: str
    outcome: str
    part: Part
    verdict: Verdict
    folder: str = ""
    interrupted: bool = False


class Search(msgspec.Struct):
    """A whole search: the file `search.json`.

    Args:
        closed: whether loads are requests under way, and not rates.
        share: of the requests that must meet the SLO.
        found: None where it was interrupted.
    """

    endpoint: str
    model: str
    closed: bool
    slo: str
    share: float
    tried: list[Tried] = []
    found: Found | None = None
    workload: list[str] = []
    settings: dict[str, Any] = {}
    started_at: float = 0.0
    name: str = ""
    troubles: list[str] = []

    @property
    def unit(self) -> str:
        """What stands behind a load."""
        return "under way" if self.closed else "requests/s"

    @property
    def exit_code(self) -> int:
        """Of the command that made it."""
        if self.troubles:
            return EXIT_FAILED
        if self.found is None:
            return EXIT_INTERRUPTED
        return 0 if self.found.low is not None else EXIT_NOT_GOOD_ENOUGH


async def search(settings: Settings, how: SearchSettings, watch: Watch, stop: asyncio.Event) -> Search:
    """Runs trials until the highest load is known.

    Args:
        settings: of each trial, but for its load and folder; its load says whether it is a rate.
        stop: ends it; what was tried until then is told.

    Raises:
        SettingsError: there is no SLO.
        PenstockError: see `measure`.
    """
    if settings.slo is None:
        raise SettingsError("slo: a search needs limits to meet", hint="add --slo ttft=500ms,tpot=50ms")
    known = await prepare_several(settings, watch)
    searched = Search(
        endpoint=settings.endpoint.url,
        model=known.model,
        closed=settings.load.is_closed,
        slo=settings.slo.text,
        share=how.share,
        settings={**settings.public, "seed": settings.seed},
        name=settings.name,
    )
    while not stop.is_set():
        step = next_step([tried.trial for tried in searched.tried], how)
        if isinstance(step, Found):
            searched.found = step
            break
        await _try(searched, step, settings, how, known, watch, stop)
    return searched


async def _try(
    searched: Search,
    step: Try,
    settings: Settings,
    how: SearchSettings,
    known: Prepared,
    watch: Watch,
    stop: asyncio.Event,
) -> None:
    of_trial = _at(settings, step.load, how, len(searched.tried) + 1)
    finished = await measure(of_trial, watch, stop=stop, known=known, command="search")
    searched.started_at = searched.started_at or finished.report.meta.started_at
    searched.workload = searched.workload or finished.report.meta.workload
    searched.troubles += [*finished.troubles, *finished.report.meta.problems]
    summary = finished.summary
    if summary.interrupted:
        stop.set()
        return
    trial = _trial(step.load, summary, finished.verdict)
    same = [tried.trial for tried in searched.tried if tried.trial.load == step.load]
    searched.tried.append(
        Tried(
            trial=trial,
            why=step.why,
            outcome=str(outcome([*same, trial], how)),
            part=summary.all,
            verdict=finished.verdict,
            folder=of_trial.output.name if of_trial.output is not None else "",
        )
    )


def _at(settings: Settings, load: float, how: SearchSettings, number: int) -> Settings:
    """The settings of one trial: long enough for as many requests as can tell whether the load meets."""
    warmup_s = settings.warmup_s
    at = Load.closed(int(load)) if settings.load.is_closed else _at_rate(settings.load, load)
    duration_s, requests = settings.duration_s, settings.requests
    if duration_s is not None and not at.is_closed:
        needed_s = requests_needed(how) * 1.2 / load
        duration_s = max(duration_s, min(TRIAL_MAX_S, warmup_s + needed_s))
    if requests is not None:
        requests = max(requests, requests_needed(how))
    name = f"{number:02d}-{'c' if at.is_closed else 'r'}{load:g}"
    output: Path | None = settings.output / name if settings.output is not None else None
    return msgspec.structs.replace(
        settings,
        load=at,
        duration_s=duration_s,
        requests=requests,
        output=output,
        name=f"trial {number}: {at.label}",
    )


def _at_rate(load: Load, rate: float) -> Load:
    return msgspec.structs.replace(load, rates=(rate,))


def _trial(load: float, summary: Summary, verdict: Verdict) -> Trial:
    part = summary.all
    good = part.goodput
    latency = part.measures.get("e2e")
    middle = latency.at(50) if latency is not None else None
    kinds = {reason.kind for reason in verdict.reasons}
    return Trial(
        load=load,
        good=good.good if good else 0,
        judged=good.judged if good else 0,
        steady=None if part.window.steady is None else VerdictKind.NOT_STEADY not in kinds,
        client_limited=VerdictKind.CLIENT_LIMITED in kinds,
        completed_per_s=part.throughput.completed_per_s,
        latency_s=middle.value if middle is not None else None,
    )
