"""Which charts a run has, and which a sweep has. Pure: from figures to pictures.

What has nothing to show is left out: no chart of errors in a run without one, none of an engine that nobody read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from penstock.bench.analysis.result import Moment, Summary
from penstock.bench.report.chart_scale import Axis
from penstock.bench.report.drawing import (
    Chart,
    Charts,
    Dot,
    Key,
    Limit,
    Line,
    Point,
    Shade,
    bar_chart,
    cloud_chart,
    colour,
    line_chart,
)
from penstock.bench.report.picks import WARM_UP_STAGE, Pick
from penstock.bench.report.shown import BYTES, DURATION, ELAPSED, SHARE, shown
from penstock.bench.report.timeline import timeline_chart
from penstock.core.stats import percentile

Series = Mapping[str, Sequence[tuple[float, float]]]
# A browser draws so many marks without a wait.
DOTS_MAX = 2000
# A pause of the load longer than this, as a part of the run and in seconds, is a gap in a line; else it is none.
_GAP_SHARE, _GAP_S = 0.04, 2.0
# Rates are told over no shorter time, and in no more steps.
_STEP_S, _STEPS_MAX = 1.0, 120
# A percentile of fewer requests is noise.
_LATENCY_STEPS_MAX = 60
# Values that differ by more than this are told apart only on a logarithmic axis.
_LOG_FROM = 30.0
_MIB = 2**20


def run_charts(
    summary: Summary,
    picks: Sequence[Pick] = (),
    engine: Series | None = None,
    gpus: Mapping[str, Series] | None = None,
    limits_s: Mapping[str, float] | None = None,
) -> Charts:
    """The charts of one run.

    Args:
        picks: requests to draw one by one, by scheduled time.
        engine: figure of `figures` -> points, in seconds since the start of the load.
        gpus: name -> member of `GpuReading` -> points.
        limits_s: the SLO's limits, seconds.
    """
    limits = limits_s or {}
    drawn = chain(
        _over_time(summary, picks, limits),
        _clouds(summary, picks, limits),
        _distributions(summary),
        _timelines(summary, picks),
        _errors(summary),
        _engine(engine or {}, _time(summary)),
        _gpus(gpus or {}, _time(summary)),
    )
    return Charts(tuple(chart for chart in drawn if chart is not None))


def _over_time(summary: Summary, picks: Sequence[Pick], limits: Mapping[str, float]) -> Iterator[Chart]:
    moments, shades, time = summary.over_time, _shades(summary), _time(summary)
    latency = _latencies(summary, picks)
    if len(moments) < 2:
        return
    yield line_chart(
        "ttft-over-time",
        "TTFT over time",
        [
            Line("p50", latency["ttft_p50_s"], dots=_few(moments)),
            Line("p95", latency["ttft_p95_s"], dots=_few(moments)),
        ],
        time,
        Axis("TTFT", DURATION),
        caption="from the scheduled send to the first token; by the time it was scheduled",
        shades=shades,
        limits=_limit(limits, "ttft"),
    )
    yield line_chart(
        "tpot-over-time",
        "TPOT over time",
        [Line("p50", latency["tpot_p50_s"], dots=_few(moments))],
        time,
        Axis("TPOT", DURATION),
        caption="median time per output token",
        shades=shades,
        limits=_limit(limits, "tpot"),
    )
    yield line_chart(
        "tokens-over-time",
        "Output tokens per second",
        [Line("output", _rates(moments, "output_tokens_per_s"))],
        time,
        Axis("", "tokens/s"),
        shades=shades,
    )
    rates = [Line("scheduled", _rates(moments, "scheduled_per_s"))]
    rates.append(Line("completed", _rates(moments, "completed_per_s")))
    if any(moment.failed_per_s for moment in moments):
        rates.append(Line("failed", _rates(moments, "failed_per_s")))
    yield line_chart(
        "requests-over-time", "Requests per second", rates, time, Axis("", "requests/s"), shades=shades
    )
    yield line_chart(
        "in-flight-over-time",
        "Requests under way",
        [Line("under way", _points(moments, "in_flight"))],
        time,
        Axis("requests"),
        caption="from their scheduled times on, so what waits for the client counts too",
        shades=shades,
    )


def _clouds(summary: Summary, picks: Sequence[Pick], limits: Mapping[str, float]) -> Iterator[Chart]:
    told = [pick for pick in picks if pick.stage != WARM_UP_STAGE]
    step = -(-len(told) // DOTS_MAX) or 1
    kinds = sorted({pick.kind for pick in told})
    colours = {kind: colour(place) for place, kind in enumerate(kinds)}
    dots = []
    for pick in told[::step]:
        reached_s = pick.ended_s if not pick.good or pick.last_s is None else pick.last_s
        took = shown(reached_s - pick.scheduled_s, DURATION)
        ending = f"{pick.cause} after {took}" if not pick.good else f"E2E {took}, {pick.tokens} tokens"
        dots.append(
            Dot(
                pick.scheduled_s,
                reached_s - pick.scheduled_s,
                colours[pick.kind] if pick.good else "c0",
                f"request {pick.index}, {pick.kind}\n{ending}",
                cross=not pick.good,
            )
        )
    if len(dots) < 2:
        return
    legend = [Key(kind, colours[kind], "block") for kind in kinds]
    if any(dot.cross for dot in dots):
        legend.append(Key("failed or cancelled", "c0", "block"))
    share = "" if step == 1 else f"; every {step}th is drawn"
    yield cloud_chart(
        "e2e-requests",
        "E2E of each request",
        dots,
        _time(summary),
        # What failed at once must not press all answers together.
        _axis("E2E", [dot.y for dot in dots if not dot.cross] or [dot.y for dot in dots]),
        caption=f"by the time it was scheduled{share}",
        legend=tuple(legend),
        shades=_shades(summary),
        limits=_limit(limits, "e2e"),
    )


def _distributions(summary: Summary) -> Iterator[Chart]:
    several = len(summary.kinds) > 1
    parts = [*summary.kinds, summary.all] if several else [summary.all]
    for measure, title in (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2e", "E2E")):
        lines, values = [], list[float]()
        for part in parts:
            spread = part.measures.get(measure)
            if spread is None or len(spread.curve) < 2:
                continue
            last = len(spread.curve) - 1
            points = [(value, place / last) for place, value in enumerate(spread.curve)]
            says = [f"{part.label}: {shown(share, SHARE)} are within" for _, share in points]
            whole = several and part is summary.all
            lines.append(Line(part.label, points, colour="ink" if whole else "", dashed=whole, says=says))
            values += spread.curve
        if not lines:
            continue
        unit = "gaps" if measure == "itl" else "requests"
        yield line_chart(
            f"{measure}-cdf",
            f"Distribution of {title}",
            lines,
            _axis(title, values, fit=True),
            Axis(f"share of {unit}", SHARE, most=1.0),
            caption=f"how many {unit} took no longer than that",
        )


def _timelines(summary: Summary, picks: Sequence[Pick]) -> Iterator[Chart | None]:
    told = [pick for pick in picks if pick.stage != WARM_UP_STAGE]
    yield timeline_chart(told, begins_s=summary.all.window.begins_s)


def _errors(summary: Summary) -> Iterator[Chart]:
    causes = sorted(summary.all.counts.by_cause.items(), key=lambda each: (-each[1], each[0]))
    if causes:
        planned = {"cancelled", "cut_off"}
        bars = [(cause, float(count), "wait" if cause in planned else "c0") for cause, count in causes]
        yield bar_chart(
            "errors",
            "Causes",
            bars,
            "",
            caption="those in grey are no errors: cancelled by plan, or cut off by the end of the run",
        )


_ENGINE: tuple[tuple[str, str, tuple[tuple[str, str], ...], str], ...] = (
    ("engine-requests", "Engine: requests", (("running", "running"), ("waiting", "waiting")), ""),
    ("engine-kv", "Engine: KV cache in use", (("kv_usage", "KV cache"),), SHARE),
    ("engine-preemptions", "Engine: preemptions", (("preemptions", "since the start"),), ""),
    (
        "engine-prefix",
        "Engine: prefix cache",
        (("prefix_query_tokens", "looked up"), ("prefix_hit_tokens", "found")),
        "tokens",
    ),
    (
        "gateway-requests",
        "Gateway: requests",
        (("gateway_in_progress", "under way"), ("gateway_waiting", "in line")),
        "",
    ),
)


def _engine(series: Series, time: Axis) -> Iterator[Chart]:
    for name, title, figures, unit in _ENGINE:
        lines = [Line(label, list(series[figure])) for figure, label in figures if series.get(figure)]
        moved = any(value for line in lines for _, value in line.points)
        if lines and (moved or name in ("engine-requests", "engine-kv")):
            most = 1.0 if unit == SHARE and _most(lines) > 0.5 else None
            yield line_chart(name, title, lines, time, Axis("", unit, most=most))


_GPU = (
    ("gpu-utilisation", "GPU: utilisation", "utilization_percent", SHARE, 0.01),
    ("gpu-memory", "GPU: memory in use", "memory_used_mib", BYTES, float(_MIB)),
    ("gpu-power", "GPU: power", "power_w", "W", 1.0),
    ("gpu-temperature", "GPU: temperature", "temperature_c", "°C", 1.0),
    ("gpu-clock", "GPU: clock", "sm_clock_mhz", "MHz", 1.0),
)


def _gpus(gpus: Mapping[str, Series], time: Axis) -> Iterator[Chart]:
    for name, title, member, unit, factor in _GPU:
        lines = [
            Line(label, [(at, value * factor) for at, value in series[member]])
            for label, series in gpus.items()
            if series.get(member)
        ]
        if lines:
            yield line_chart(name, title, lines, time, Axis("", unit, most=1.0 if unit == SHARE else None))


def _points(moments: Sequence[Moment], member: str) -> list[Point]:
    return [(moment.at_s, getattr(moment, member)) for moment in moments]


def _time(summary: Summary) -> Axis:
    """The same for all charts over time, so that they can be put below each other."""
    return Axis("time since the start", ELAPSED, least=0.0, most=summary.duration_s or None)


def _latencies(summary: Summary, picks: Sequence[Pick]) -> dict[str, list[Point]]:
    """Latencies over time. Of a run whose requests are all at hand, in steps that hold enough of them."""
    if len([pick for pick in picks if pick.stage != WARM_UP_STAGE]) < summary.all.counts.requests:
        return {name: _bridged(summary, _points(summary.over_time, name)) for name in _LATENCIES}
    step_s = max(_STEP_S, summary.duration_s / _LATENCY_STEPS_MAX)
    found = {}
    for name, (value, p) in _LATENCIES.items():
        steps: dict[int, list[float]] = {}
        for pick in picks:
            known = value(pick) if pick.good else None
            if known is not None:
                steps.setdefault(int(pick.scheduled_s / step_s), []).append(known)
        points: list[Point] = [((at + 0.5) * step_s, percentile(steps[at], p)) for at in sorted(steps)]
        found[name] = _bridged(summary, points)
    return found


def _bridged(summary: Summary, points: Sequence[Point]) -> list[Point]:
    """The points that have a value; a longer pause between two of them is a gap."""
    gap_s = max(_GAP_S, _GAP_SHARE * summary.duration_s)
    bridged: list[Point] = []
    for at_s, value in points:
        if value is None:
            continue
        if bridged and at_s - bridged[-1][0] > gap_s:
            bridged.append(((at_s + bridged[-1][0]) / 2, None))
        bridged.append((at_s, value))
    return bridged


def _ttft(pick: Pick) -> float | None:
    return pick.first_s - pick.scheduled_s if pick.first_s is not None else None


def _tpot(pick: Pick) -> float | None:
    if pick.first_s is None or pick.last_s is None or pick.tokens < 2:
        return None
    return (pick.last_s - pick.first_s) / (pick.tokens - 1)


_LATENCIES: Mapping[str, tuple[Callable[[Pick], float | None], float]] = {
    "ttft_p50_s": (_ttft, 50.0),
    "ttft_p95_s": (_ttft, 95.0),
    "tpot_p50_s": (_tpot, 50.0),
}


def _rates(moments: Sequence[Moment], member: str) -> list[Point]:
    """A rate over time, in steps that a person can follow."""
    step_s = moments[1].at_s - moments[0].at_s
    together = max(1, round(_STEP_S / step_s), -(-len(moments) // _STEPS_MAX))
    points: list[Point] = []
    for begin in range(0, len(moments), together):
        part = moments[begin : begin + together]
        middle_s = (part[0].at_s + part[-1].at_s) / 2
        points.append((middle_s, sum(getattr(moment, member) for moment in part) / len(part)))
    return points


def _few(moments: Sequence[Moment]) -> bool:
    return len(moments) <= 12


def _most(lines: Sequence[Line]) -> float:
    return max((value for line in lines for _, value in line.points if value is not None), default=0.0)


def _limit(limits: Mapping[str, float], name: str) -> list[Limit]:
    return [Limit(limits[name], f"SLO {shown(limits[name], DURATION)}")] if name in limits else []


def _axis(label: str, values: Sequence[float], *, fit: bool = False) -> Axis:
    """An axis of durations: logarithmic where they differ by much."""
    above = [value for value in values if value > 0]
    log = bool(above) and max(above) / min(above) > _LOG_FROM
    # A linear axis of a distribution begins near its first value.
    near = min(above) * 0.95 if fit and above and min(above) > 0.5 * max(above) else None
    return Axis(label, DURATION, log=log, least=None if log else near)


def _shades(summary: Summary) -> list[Shade]:
    """What was left out at the beginning; with stages, every second of them."""
    if len(summary.stages) > 1:
        return [
            Shade(
                stage.begins_s, stage.ends_s if stage.ends_s is not None else summary.duration_s, stage.label
            )
            for stage in summary.plan[::2]
        ]
    begins_s = summary.all.window.begins_s
    return [Shade(0.0, begins_s, "left out")] if begins_s > 0 else []
