"""The highest load that meets an SLO: what to try next, from what was tried. Pure.

By doubling until a load misses, then by halving between the highest that met and the lowest that missed. A load meets
or misses only when the interval of its good requests' share (Wilson) lies on one side of the wanted share; until then
it is tried again, and what stays unsure counts as missed. A rate at which the queue grew without end has missed, and so
has one at which the client itself was the limit, which the result then says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from penstock.bench.analysis.result import Summary, VerdictKind
from penstock.core.stats import CONFIDENCE, share_interval


class Trial(msgspec.Struct, frozen=True):
    """One load that was tried.

    Args:
        load: requests per second, or requests under way; above 0.
        good, judged: requests that met the SLO, and those that were judged.
        steady: whether the run was; None where that could not be told.
        client_limited: whether the load generator was the bottleneck.
        completed_per_s, latency_s: for the knee; a latency of None has none.
    """

    load: float
    good: int
    judged: int
    steady: bool | None = True
    client_limited: bool = False
    completed_per_s: float = 0.0
    latency_s: float | None = None


def trial(load: float, summary: Summary) -> Trial:
    """What a run at `load` says; its verdict must have been asked for, and it must have had an SLO.

    Raises:
        ValueError: it has no SLO.
    """
    goodput = summary.all.goodput
    if goodput is None:
        raise ValueError("a run without an SLO can be neither good nor bad")
    reasons = summary.verdict.reasons if summary.verdict is not None else []
    e2e = summary.all.measures.get("e2e")
    middle = e2e.at(50.0) if e2e is not None else None
    return Trial(
        load=load,
        good=goodput.good,
        judged=goodput.judged,
        steady=summary.all.window.steady,
        client_limited=any(reason.kind is VerdictKind.CLIENT_LIMITED for reason in reasons),
        completed_per_s=summary.all.throughput.completed_per_s,
        latency_s=middle.value if middle is not None else None,
    )


class SearchSettings(msgspec.Struct, frozen=True):
    """How to search.

    Args:
        start: the first load, between `least` and `most`.
        least, most: none is tried below or above.
        whole: loads are whole numbers, as requests under way are.
        within: how near the highest that met and the lowest that missed must come, as a part of the former.
        share: of the requests that must be good, above 0 and below 1.
        confidence: of that, above 0.5 and below 1.
        tries_max: how often one load is tried before it counts as missed.
        trials_max: how many trials there may be in all.
    """

    start: float = 1.0
    least: float = 0.01
    most: float = 100_000.0
    whole: bool = False
    within: float = 0.05
    share: float = 0.95
    confidence: float = CONFIDENCE
    tries_max: int = 3
    trials_max: int = 40


class Outcome(StrEnum):
    """What is known of a load."""

    MET = "met"
    MISSED = "missed"
    UNSURE = "unsure"


class Try(msgspec.Struct, frozen=True):
    """The load to try next, and why."""

    load: float
    why: str


class Found(msgspec.Struct, frozen=True):
    """The end of a search.

    Args:
        low: the highest load that met; None where none did.
        high: the lowest load that missed; None where none did.
        knee: the load of the best completed_per_s / latency_s (Kleinrock's power); None without latencies.
        why: the result in a sentence.
    """

    low: float | None
    high: float | None
    knee: float | None
    why: str


def next_step(history: Sequence[Trial], settings: SearchSettings | None = None) -> Try | Found:
    """What to do after these trials.

    Args:
        history: all trials so far, in any order.
        settings: None is their defaults.
    """
    settings = settings or SearchSettings()
    if not history:
        return Try(_round(settings.start, settings), "the first load")
    loads = sorted({trial.load for trial in history})
    outcomes = {load: outcome([trial for trial in history if trial.load == load], settings) for load in loads}
    high = next((load for load in loads if outcomes[load] is Outcome.MISSED), None)
    below = [load for load in loads if high is None or load < high]
    low = next((load for load in reversed(below) if outcomes[load] is Outcome.MET), None)
    if len(history) >= settings.trials_max:
        return _found(history, low, high, settings, f"the search ended after {len(history)} trials: ")
    unsure = next((load for load in below if outcomes[load] is Outcome.UNSURE and load > (low or 0.0)), None)
    if unsure is not None:
        return Try(unsure, f"{_text(unsure)} is unsure still")
    if high is None:
        return _further_up(history, low, settings)
    if low is None:
        return _further_down(history, high, settings)
    middle = _round((low + high) / 2 if settings.whole else math.sqrt(low * high), settings)
    if high <= low * (1 + settings.within) or not low < middle < high:
        return _found(history, low, high, settings, "")
    return Try(middle, f"between {_text(low)}, which met, and {_text(high)}, which missed")


def outcome(trials: Sequence[Trial], settings: SearchSettings) -> Outcome:
    """What the trials of one load say together."""
    if any(trial.client_limited or trial.steady is False for trial in trials):
        return Outcome.MISSED
    good, judged = sum(trial.good for trial in trials), sum(trial.judged for trial in trials)
    low, high = share_interval(good, judged, confidence=settings.confidence)
    if low >= settings.share:
        return Outcome.MET
    if high < settings.share or len(trials) >= settings.tries_max:
        return Outcome.MISSED
    return Outcome.UNSURE


def requests_needed(settings: SearchSettings) -> int:
    """How many requests a trial needs at least, all of them good, to meet."""
    count = 1
    while share_interval(count, count, confidence=settings.confidence)[0] < settings.share:
        count += 1
    return count


def knee(history: Sequence[Trial]) -> float | None:
    """The load at which most is done for the time that it takes: Kleinrock's power, the first of equal ones."""
    power = [
        (trial.completed_per_s / trial.latency_s, -trial.load)
        for trial in history
        if trial.latency_s and not trial.client_limited
    ]
    return -max(power)[1] if power else None


def _further_up(history: Sequence[Trial], low: float | None, settings: SearchSettings) -> Try | Found:
    reached = low or 0.0
    if reached >= settings.most:
        return _found(history, low, None, settings, "")
    return Try(_round(min(settings.most, reached * 2), settings), f"{_text(reached)} met; twice as much")


def _further_down(history: Sequence[Trial], high: float, settings: SearchSettings) -> Try | Found:
    least = max(settings.least, 1.0) if settings.whole else settings.least
    if high <= least:
        return _found(history, None, high, settings, "")
    return Try(max(least, _round(high / 2, settings)), f"{_text(high)} missed; half as much")


def _found(
    history: Sequence[Trial], low: float | None, high: float | None, settings: SearchSettings, before: str
) -> Found:
    share = f"{settings.share:.0%} of the requests in the SLO"
    if low is None:
        says = f"no load had {share}; the lowest that missed is {_text(high)}"
    elif high is None:
        says = f"{_text(low)} had {share}, and nothing above it was to be tried"
    else:
        says = f"{_text(low)} is the highest load that had {share}; {_text(high)} missed"
    walls = [trial for trial in history if trial.load == high]
    if any(trial.client_limited for trial in walls):
        says += ", but there the load generator was the limit: the server may do more"
    elif any(trial.steady is False for trial in walls):
        says += ", since it was not steady there"
    return Found(low, high, knee(history), before + says)


def _round(load: float, settings: SearchSettings) -> float:
    """Whole, or in three digits, which are easy to read and finer than any `within`."""
    if settings.whole:
        return float(max(1, math.floor(load)))
    return float(f"{load:.3g}")


def _text(load: float | None) -> str:
    return "none" if load is None else f"{load:g}"
