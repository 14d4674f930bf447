"""The report of a search: the load that was found, every trial on the way; as a table, Markdown and a page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from penstock.bench.report.chart_scale import Axis
from penstock.bench.report.drawing import Charts, Limit, Line, line_chart
from penstock.bench.report.facts import percentile_of, told
from penstock.bench.report.markdown import table_lines
from penstock.bench.report.page import heading, kind_name, notes, page, pictures, table, text, tile, tiles
from penstock.bench.report.shown import DURATION, SHARE, number, shown, whole
from penstock.bench.report.table import aligned
from penstock.bench.searches import Search, Tried


def search_text(searched: Search) -> str:
    """For a terminal."""
    lines = [f"{searched.model} at {searched.endpoint}, {searched.slo}", ""]
    header, rows = _trials(searched, str.upper)
    lines += [aligned(header[:-1], [row[:-1] for row in rows]), "", *_result(searched)]
    return "\n".join(lines)


def search_markdown(searched: Search) -> str:
    """For a pull request."""
    lines = [
        f"### Search: {searched.name or searched.model}",
        "",
        *(f"**{line}**" for line in _result(searched)),
        "",
    ]
    return "\n".join([*lines, *table_lines(*_trials(searched, str))])


def search_html(searched: Search) -> str:
    """A page."""
    return page(f"{searched.name or searched.model}: search", _parts(searched))


def search_charts(searched: Search) -> Charts:
    """Its pictures."""
    level = Axis(searched.unit)
    tried = sorted(searched.tried, key=lambda each: each.trial.load)
    good = [
        (each.trial.load, each.trial.good / each.trial.judged if each.trial.judged else None)
        for each in tried
    ]
    charts = [
        line_chart(
            "good",
            "Requests in the SLO",
            [Line("share", good, dots=True)],
            level,
            Axis("share", SHARE, most=1.0),
            caption=searched.slo,
            limits=[Limit(searched.share, f"{searched.share:.0%} wanted")],
        )
    ]
    for name, title, p in (("ttft", "TTFT", 95), ("tpot", "TPOT", 95), ("e2e", "E2E", 50)):
        points = [(each.trial.load, _value(each, name, p)) for each in tried]
        if any(value is not None for _, value in points):
            charts.append(
                line_chart(
                    name,
                    f"{title} p{p} by load",
                    [Line(title, points, dots=True)],
                    level,
                    Axis(f"{title} p{p}", DURATION),
                )
            )
    return Charts(tuple(charts))


def _parts(searched: Search) -> Iterator[str]:
    began = datetime.fromtimestamp(searched.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield heading(searched.name or f"{searched.model}: search", searched.endpoint, began)
    found = searched.found
    tone = "good" if found is not None and found.low is not None else "warn"
    says = "".join(f"<p>{text(line)}</p>" for line in _result(searched))
    yield f'<section class="verdict {tone}">{says}</section>'
    if found is not None:
        each = [
            tile("highest that met", f"{shown(found.low)} {searched.unit}"),
            tile("lowest that missed", f"{shown(found.high)} {searched.unit}"),
            tile("knee", f"{shown(found.knee)} {searched.unit}", ["most done for its latency"]),
            tile("trials", whole(len(searched.tried))),
        ]
        yield tiles(each)
    yield "<h2>By load</h2>"
    yield pictures(list(search_charts(searched)))
    yield "<h2>Every trial</h2>"
    header, rows = _trials(searched, str)
    for row, tried in zip(rows, searched.tried, strict=True):
        row[:] = [text(value) for value in row]
        if tried.folder:
            row[0] = f'<a href="{text(tried.folder)}/report.html">{row[0]}</a>'
    yield table([*header[:-1], f"{header[-1]}|"], rows)
    yield "<h2>Workload</h2>"
    yield notes(searched.workload)


def _trials(searched: Search, title: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    names = [
        "load",
        "requests",
        "good",
        "outcome",
        "req/s",
        "tok/s",
        "TTFT p50",
        "TTFT p95",
        "TPOT p95",
        "verdict",
        "why",
    ]
    return [title(name) for name in names], [_row(tried) for tried in searched.tried]


def _row(tried: Tried) -> list[str]:
    part, trial = tried.part, tried.trial
    return [
        f"{trial.load:g}",
        whole(part.counts.requests),
        f"{trial.good}/{trial.judged}",
        tried.outcome,
        number(part.throughput.completed_per_s),
        number(part.throughput.output_tokens_per_s),
        *(
            told(percentile_of(part, name, p), DURATION)
            for name, p in (("ttft", 50), ("ttft", 95), ("tpot", 95))
        ),
        kind_name(tried.verdict.kind),
        tried.why,
    ]


def _result(searched: Search) -> list[str]:
    found = searched.found
    if found is None:
        return [f"Interrupted after {len(searched.tried)} trials: nothing is concluded."]
    lines = [f"{found.why} ({searched.unit})"]
    if found.knee is not None:
        lines.append(f"knee: {found.knee:g} {searched.unit}, where most is done for its latency")
    return [*lines, *searched.troubles]


def _value(tried: Tried, name: str, p: float) -> float | None:
    found = percentile_of(tried.part, name, p)
    return found.value if found is not None else None
