"""The report as a page: the verdict first, then figures, pictures, and how they came about. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from penstock.bench.analysis.attribution import Attribution, TimePart
from penstock.bench.analysis.measures import BY_NAME, MEASURES
from penstock.bench.analysis.result import Part, Percentile, Summary
from penstock.bench.report.drawing import Chart
from penstock.bench.report.facts import Report, interval, part_rows, percentile_of
from penstock.bench.report.page import (
    facts,
    folded,
    heading,
    notes,
    page,
    pictures,
    table,
    text,
    tile,
    tiles,
    verdict_box,
)
from penstock.bench.report.shown import BYTES, DURATION, SHARE, number, shown, whole

_SECTIONS = (
    (
        "Over time",
        (
            *("ttft-over-time", "tpot-over-time", "e2e-requests"),
            *("tokens-over-time", "requests-over-time", "in-flight-over-time"),
        ),
    ),
    ("Distributions", ("ttft-cdf", "tpot-cdf", "itl-cdf", "e2e-cdf")),
    ("Requests", ("timeline",)),
    ("Requests without a whole answer", ("errors",)),
)
_MACHINE = ("Engine and gateway", ("engine-", "gateway-")), ("GPU", ("gpu-",))
_FAILURES_SHOWN_MAX = 20
_KINDS_ROWS = (("ttft", (50, 95, 99)), ("tpot", (50, 95)), ("e2e", (50, 95, 99)))


def report_html(report: Report) -> str:
    """The page."""
    return page(f"{report.title}: load test", _parts(report))


def _parts(report: Report) -> Iterator[str]:
    summary, meta = report.summary, report.meta
    began = datetime.fromtimestamp(meta.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield heading(
        report.title, f"{meta.endpoint}{meta.route}", f"{began}, {shown(summary.duration_s, DURATION)}"
    )
    yield verdict_box(summary.verdict, summary.interrupted)
    yield headline(summary)
    yield notes(report.notes())
    yield f"<h2>{_heads(summary)}</h2>"
    yield _by_part(summary)
    charts = list(report.charts())
    yield from _charts(charts)
    if report.attribution is not None:
        yield "<h2>Where the time to the first token went</h2>"
        yield from _attribution(report.attribution)
    yield "<h2>Every measure</h2>"
    yield _by_measure(summary.all)
    if summary.failures:
        yield "<h2>Failures</h2>"
        yield _failures(summary)
    yield "<h2>How it was made</h2>"
    yield from _made(report)


def headline(summary: Summary) -> str:
    """The figures that people ask for first."""
    part = summary.all
    counts, rate = part.counts, part.throughput
    each = [
        tile(
            "completed",
            f"{number(rate.completed_per_s)} req/s",
            [f"of {number(rate.offered_per_s)} scheduled"],
        ),
        tile(
            "output",
            f"{number(rate.output_tokens_per_s)} tokens/s",
            [f"{number(rate.in_flight_mean)} requests under way"],
        ),
    ]
    each += [_latency_tile(part, measure) for measure in ("ttft", "tpot", "e2e") if measure in part.measures]
    failed = shown(counts.error_share, SHARE) if counts.failed else "0"
    each.append(tile("errors", failed, [f"{whole(counts.failed)} of {whole(counts.requests)} requests"]))
    if part.goodput is not None:
        good = part.goodput
        below = [f"{number(good.per_s)} good req/s", *good.slo.split(",")]
        each.append(tile("meet the SLO", shown(good.share, SHARE), below))
    return tiles(each)


def _latency_tile(part: Part, name: str) -> str:
    known, spread = BY_NAME[name], part.measures[name]
    middle = spread.at(50)
    within = interval(middle, DURATION)
    below = [within] if within else []
    for p in (95, 99):
        found = spread.at(p)
        if found is not None:
            told = shown(found.value, DURATION) if found.value is not None else f"needs {found.needs:,}"
            below.append(f"p{p} {told}")
    value = middle.value if middle is not None else None
    return tile(f"{known.label} p50", shown(value, DURATION), below, known.definition)


def _heads(summary: Summary) -> str:
    if summary.cells:
        return "By prompt type and stage"
    return "By prompt type" if summary.kinds else "By stage" if summary.stages else "In all"


def _by_part(summary: Summary) -> str:
    slo = summary.all.goodput is not None
    header = ["", "requests", "errors", "req/s", "tokens/s"]
    header += [f"{BY_NAME[measure].label} p{p}" for measure, percentiles in _KINDS_ROWS for p in percentiles]
    rows = [_part_row(part, slo) for part in part_rows(summary)]
    return table([*header, "good"] if slo else header, rows, last_is_total=True)


def _part_row(part: Part, slo: bool) -> list[str]:
    counts, rate = part.counts, part.throughput
    cells = [
        text(part.label),
        whole(counts.requests),
        shown(counts.error_share, SHARE, digits=2) if counts.failed else "0",
        number(rate.completed_per_s),
        number(rate.output_tokens_per_s),
    ]
    cells += [
        _value(percentile_of(part, measure, p), DURATION) for measure, each in _KINDS_ROWS for p in each
    ]
    if slo:
        cells.append(shown(part.goodput.share if part.goodput else None, SHARE))
    return cells


def _value(found: Percentile | None, unit: str) -> str:
    """A cell; where there are too few samples it says so under the pointer."""
    if found is not None and found.value is None:
        return f'<abbr class="few" title="needs {found.needs:,} samples">few</abbr>'
    return text(shown(found.value if found else None, unit))


def _by_measure(part: Part) -> str:
    rows = []
    for measure in MEASURES:
        spread = part.measures.get(measure.name)
        if spread is None:
            continue
        row = [
            f'<abbr title="{text(measure.definition)}">{text(measure.label)}</abbr>',
            whole(spread.count),
            text(shown(spread.mean, spread.unit)),
        ]
        for p in (50, 90, 95, 99):
            found = spread.at(p)
            within = interval(found, spread.unit) if p != 90 else ""
            row.append(_value(found, spread.unit) + (f"<br><small>{text(within)}</small>" if within else ""))
        rows.append([*row, text(shown(spread.most, spread.unit))])
    return table(["", "count", "mean", "p50", "p90", "p95", "p99", "max"], rows)


def _attribution(told: Attribution) -> Iterator[str]:
    if told.parts:
        rows = [
            [text(part.name), whole(part.count), *(shown(value, DURATION) for value in _times(part))]
            for part in told.parts
        ]
        yield table(["", "answers", "mean", "p50", "p95"], rows)
    if len(told.replicas) > 1:
        replicas = [
            [text(one.name), whole(one.requests), whole(one.failed), shown(one.ttft_p50_s, DURATION)]
            for one in told.replicas
        ]
        yield "<h2>By replica</h2>"
        yield table(["", "requests", "failed", "TTFT p50"], replicas)


def _times(part: TimePart) -> tuple[float, float, float]:
    return part.mean_s, part.p50_s, part.p95_s


def _failures(summary: Summary) -> str:
    rows = [
        [
            text(failure.cause),
            str(failure.status or "-"),
            whole(failure.count),
            text(shown(failure.first_s, "elapsed")),
            text(failure.detail),
        ]
        for failure in summary.failures[:_FAILURES_SHOWN_MAX]
    ]
    return table(["cause", "status", "requests", "first after", "in the words of the first|"], rows)


def _charts(charts: Sequence[Chart]) -> Iterator[str]:
    for title, names in _SECTIONS:
        found = [chart for name in names for chart in charts if chart.name == name]
        if found:
            yield f"<h2>{title}</h2>"
            yield pictures(found, wide=("timeline",))
    for title, beginnings in _MACHINE:
        found = [chart for chart in charts if chart.name.startswith(beginnings)]
        if found:
            yield f"<h2>{title}</h2>"
            yield pictures(found)


def _made(report: Report) -> Iterator[str]:
    meta, summary = report.meta, report.summary
    yield folded("Load and workload", notes([meta.load, *meta.workload]), opened=True)
    yield folded("Window", notes(_windows(summary)))
    if summary.client is not None:
        yield folded("Load generator", facts(_client(report)))
    if report.cost is not None:
        costs = {
            name.replace("_", " "): number(value) if isinstance(value, float) else value
            for name, value in _members(report.cost)
            if value is not None
        }
        yield folded("Energy and cost", facts(costs))
    settings = {name: value for name, value in meta.settings.items() if value not in (None, "", [], {})}
    yield folded("Settings", facts(settings))
    definitions = [
        [text(measure.label), f"<code>{measure.name}</code>", text(measure.definition)]
        for measure in MEASURES
    ]
    yield folded("Definitions", table(["", "name|", "definition|"], definitions))


def _members(struct: object) -> list[tuple[str, object]]:
    return [(name, getattr(struct, name)) for name in type(struct).__struct_fields__]  # type: ignore[attr-defined]  # a msgspec.Struct


def _windows(summary: Summary) -> list[str]:
    parts = summary.stages or [summary.all]
    told = [
        f"{part.label}: {shown(part.window.begins_s, 'elapsed')} to {shown(part.window.ends_s, 'elapsed')}, "
        f"{part.window.left_out} requests before it are left out; {part.window.says}"
        for part in parts
    ]
    if summary.warmup:
        told.append(f"{summary.warmup} requests of the warm-up are in no figure.")
    return told


def _client(report: Report) -> dict[str, object]:
    client, host = report.summary.client, report.meta.host
    assert client is not None
    return {
        "send lateness": f"{shown(client.send_late_p50_s, DURATION)} p50, {shown(client.send_late_p99_s, DURATION)} "
        f"p99, {shown(client.send_late_max_s, DURATION)} at most",
        "event loop lag": f"{shown(client.loop_lag_p99_s, DURATION)} p99, "
        f"{shown(client.loop_lag_max_s, DURATION)} at most",
        "CPU of a core": ", ".join(shown(share, SHARE) for share in client.cpu_share),
        "events": f"{whole(client.events)}, {number(client.events_per_s)}/s of {number(client.ceiling_events_per_s)}/s "
        "that it could read",
        "connections": f"{whole(client.connections_opened)} opened, {whole(client.stale_connections)} were closed by "
        "the server when they were wanted again",
        "memory": f"{shown(float(client.rss_max_bytes), BYTES)} at most in one process",
        "machine": f"{host.system}, {host.machine}, {host.cores} cores, Python {host.python}",
    }
