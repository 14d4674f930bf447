"""The report of a sweep: a matrix, and what throughput costs in latency; as a table, Markdown and a page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from penstock.bench.report.chart_scale import Axis
from penstock.bench.report.drawing import Chart, Charts, Line, Point, colour, line_chart
from penstock.bench.report.facts import percentile_of, told
from penstock.bench.report.markdown import table_lines
from penstock.bench.report.page import heading, kind_name, notes, page, pictures, table, text, verdict_says
from penstock.bench.report.shown import DURATION, SHARE, number, shown, whole
from penstock.bench.report.table import aligned
from penstock.bench.sweeps import Cell, Sweep

Value = Callable[[Cell], float | None]


def sweep_text(swept: Sweep) -> str:
    """For a terminal."""
    lines = [f"{swept.model} at {swept.endpoint}", "", aligned(*_matrix(swept, str.upper))]
    lines += ["", *_judged(swept)]
    return "\n".join(lines)


def sweep_markdown(swept: Sweep) -> str:
    """For a pull request."""
    header, rows = _matrix(swept, str)
    lines = [f"### Sweep: {swept.name or swept.model}", "", f"`{swept.endpoint}`", ""]
    lines += [*table_lines(header, rows), *(f"- {line}" for line in _judged(swept)), ""]
    return "\n".join(lines)


def sweep_html(swept: Sweep) -> str:
    """A page."""
    return page(f"{swept.name or swept.model}: sweep", _parts(swept))


def sweep_charts(swept: Sweep) -> Charts:
    """Its pictures."""
    level = Axis(
        "requests under way" if swept.closed else "requests/s offered", log=_wide(swept), at=_loads(swept)
    )
    rate = Axis("output", "tokens/s")
    charts = [
        _by(swept, "throughput", "Throughput by load", level, rate, _level, _tokens_per_s),
        _by(swept, "ttft-p50", "TTFT by load", level, Axis("TTFT p50", DURATION), _level, _at("ttft", 50)),
        _by(
            swept, "ttft-p95", "TTFT p95 by load", level, Axis("TTFT p95", DURATION), _level, _at("ttft", 95)
        ),
        _by(swept, "tpot-p50", "TPOT by load", level, Axis("TPOT p50", DURATION), _level, _at("tpot", 50)),
        _by(
            swept,
            "throughput-latency",
            "What throughput costs: E2E",
            rate,
            Axis("E2E p50", DURATION),
            _tokens_per_s,
            _at("e2e", 50),
            "each dot is one load; the knee is where the line turns up",
        ),
        _by(
            swept,
            "throughput-user",
            "What throughput costs: speed for each user",
            rate,
            Axis("speed p50", "tokens/s per user"),
            _tokens_per_s,
            _at("speed", 50),
        ),
        _by(
            swept,
            "goodput",
            "Requests in the SLO",
            level,
            Axis("share", SHARE, most=1.0),
            _level,
            lambda cell: cell.part.goodput.share if cell.part.goodput else None,
            swept.slo,
        ),
        _by(
            swept,
            "gpu",
            "GPU utilisation by load",
            level,
            Axis("", "%", most=100.0),
            _level,
            lambda cell: cell.gpu.get("utilization_percent"),
        ),
    ]
    return Charts(tuple(chart for chart in charts if chart is not None))


def _parts(swept: Sweep) -> Iterator[str]:
    began = datetime.fromtimestamp(swept.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield heading(swept.name or f"{swept.model}: sweep", swept.endpoint, began)
    worst = swept.worst
    if worst is not None:
        tone = "good" if not worst.exit_code else "warn"
        judged = "".join(f"<li>{text(line)}</li>" for line in _judged(swept))
        yield f'<section class="verdict {tone}"><ul style="margin:0">{judged}</ul></section>'
    yield pictures(list(sweep_charts(swept)))
    yield "<h2>Every run</h2>"
    header, rows = _matrix(swept, str)
    for row, cell in zip(rows, swept.cells, strict=True):
        row[:] = [text(value) for value in row]
        if cell.folder:
            row[1] = f'<a href="{text(cell.folder)}/report.html">{row[1]}</a>'
    yield table(header, rows)
    yield "<h2>Workload</h2>"
    yield notes(swept.workload)


def _matrix(swept: Sweep, title: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    gpu = any(cell.gpu for cell in swept.cells)
    names = ["prompts", "load", "requests", "errors", "req/s", "tok/s", "TTFT p50", "TTFT p95", "TPOT p50"]
    names += [
        "E2E p50",
        "E2E p95",
        *(["good"] if swept.slo else []),
        *(["GPU", "GPU W"] if gpu else []),
        "verdict",
    ]
    return [title(name) for name in names], [_row(cell, swept, gpu) for cell in swept.cells]


def _row(cell: Cell, swept: Sweep, gpu: bool) -> list[str]:
    part = cell.part
    row = [
        cell.kind,
        cell.load,
        whole(part.counts.requests),
        shown(part.counts.error_share, SHARE, digits=2) if part.counts.failed else "0",
        number(part.throughput.completed_per_s),
        number(part.throughput.output_tokens_per_s),
    ]
    for measure, p in (("ttft", 50), ("ttft", 95), ("tpot", 50), ("e2e", 50), ("e2e", 95)):
        row.append(told(percentile_of(part, measure, p), DURATION))
    if swept.slo:
        row.append(shown(part.goodput.share if part.goodput else None, SHARE))
    if gpu:
        row += [shown(cell.gpu.get("utilization_percent"), "%"), shown(cell.gpu.get("power_w"), "W")]
    return [*row, kind_name(cell.verdict.kind) + (" (interrupted)" if cell.interrupted else "")]


def _judged(swept: Sweep) -> list[str]:
    """What speaks against cells, and which they are."""
    lines = []
    if swept.interrupted:
        lines.append(f"Interrupted: {len(swept.cells)} of {swept.planned} runs were made.")
    against = [cell for cell in swept.cells if cell.verdict.exit_code]
    for kind in dict.fromkeys(cell.verdict.kind for cell in against):
        cells = [cell for cell in against if cell.verdict.kind is kind]
        first = cells[0]
        which = f"{first.kind}, {first.load}: {verdict_says(first.verdict)}"
        others = len(cells) - 1
        more = f" (and {others} other run{'s' if others > 1 else ''})" if others else ""
        lines.append(f"{kind_name(kind)}: {which}{more}")
    if not against and swept.cells:
        lines.append(f"VALID: nothing speaks against any of {len(swept.cells)} runs")
    lines += [trouble for cell in swept.cells for trouble in cell.troubles]
    return lines


def _by(
    swept: Sweep, name: str, title: str, x: Axis, y: Axis, across: Value, up: Value, caption: str = ""
) -> Chart | None:
    lines = []
    for place, kind in enumerate(swept.kinds):
        points: list[Point] = []
        says = []
        for cell in swept.cells:
            left, value = across(cell), up(cell)
            if cell.kind == kind and left is not None and value is not None:
                points.append((left, value))
                says.append(f"{kind}, {cell.load}: {shown(value, y.unit)}")
        if points:
            lines.append(Line(kind, points, dots=True, colour=colour(place), says=says))
    return line_chart(name, title, lines, x, y, caption=caption) if lines else None


def _level(cell: Cell) -> float | None:
    return cell.level


def _tokens_per_s(cell: Cell) -> float | None:
    return cell.part.throughput.output_tokens_per_s


def _at(measure: str, p: float) -> Value:
    def value(cell: Cell) -> float | None:
        found = percentile_of(cell.part, measure, p)
        return found.value if found is not None else None

    return value


def _loads(swept: Sweep) -> tuple[float, ...]:
    """The loads, as lines of an axis, where they have room."""
    found = tuple(sorted({cell.level for cell in swept.cells}))
    return found if len(found) > 1 and _wide(swept) else ()


def _wide(swept: Sweep) -> bool:
    """Whether loads are so far apart that equal steps should be equal factors."""
    found = [cell.level for cell in swept.cells]
    return bool(found) and max(found) / min(found) >= 8
