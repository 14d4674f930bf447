"""The report of a comparison: what differs, by how much, how surely; as a table, Markdown and a page. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from penstock.bench.analysis.compare import Effect
from penstock.bench.analysis.measures import BY_NAME
from penstock.bench.comparing import Compare
from penstock.bench.report.chart_scale import Axis
from penstock.bench.report.drawing import Charts, Line, line_chart
from penstock.bench.report.markdown import table_lines
from penstock.bench.report.page import heading, notes, page, pictures, table, text
from penstock.bench.report.shown import DURATION, SHARE, shown
from penstock.bench.report.table import aligned


def compare_text(compared: Compare) -> str:
    """For a terminal."""
    lines = [f"A: {compared.names[0]}", f"B: {compared.names[1]}", ""]
    if compared.result is not None:
        lines += [aligned(*_effects(compared, str.upper)), ""]
    lines += [f"note: {line}" for line in _notes(compared)]
    return "\n".join([*lines, _says(compared)])


def compare_markdown(compared: Compare) -> str:
    """For a pull request."""
    lines = [
        "### Comparison",
        "",
        f"A: `{compared.names[0]}`, B: `{compared.names[1]}`",
        "",
        f"**{_says(compared)}**",
        "",
    ]
    if compared.result is not None:
        lines += table_lines(*_effects(compared, str))
    return "\n".join([*lines, *(f"- {line}" for line in _notes(compared)), ""])


def compare_html(compared: Compare) -> str:
    """A page."""
    return page("Comparison", _parts(compared))


def compare_charts(compared: Compare) -> Charts:
    """Both distributions of each measure."""
    charts = []
    for name, title in (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2e", "E2E")):
        lines = []
        for letter, curves in (("A", compared.curves_a), ("B", compared.curves_b)):
            spread = curves.get(name)
            if spread is None or len(spread.curve) < 2:
                continue
            last = len(spread.curve) - 1
            points = [(value, place / last) for place, value in enumerate(spread.curve)]
            lines.append(
                Line(
                    letter,
                    points,
                    says=[f"{letter}: {shown(share, SHARE)} are within" for _, share in points],
                )
            )
        if len(lines) == 2:
            charts.append(
                line_chart(
                    f"{name}-cdf",
                    f"Distribution of {title}",
                    lines,
                    Axis(title, DURATION),
                    Axis("share", SHARE, most=1.0),
                )
            )
    return Charts(tuple(charts))


def _parts(compared: Compare) -> Iterator[str]:
    yield heading("Comparison", f"A: {compared.names[0]}", f"B: {compared.names[1]}")
    doubtful = compared.verdicts or compared.interrupted or compared.result is None
    tone = "bad" if compared.worse else "warn" if doubtful else "good"
    yield f'<section class="verdict {tone}"><p>{text(_says(compared))}</p></section>'
    yield notes(_notes(compared))
    if compared.result is not None:
        yield "<h2>Differences</h2>"
        header, rows = _effects(compared, str)
        yield table(header, [[text(cell) for cell in row] for row in rows])
    yield "<h2>Distributions</h2>"
    yield pictures(list(compare_charts(compared)))


def _effects(compared: Compare, title: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    result = compared.result
    assert result is not None
    names = ["", "A", "B", "B - A", "95 % interval", "as a share", "detectable", "p", ""]
    rows = []
    for each in result.measures:
        p_value = (
            "-"
            if each.p_adjusted is None
            else f"{each.p_adjusted:.2g}"
            if each.p_adjusted >= 0.001
            else "<0.001"
        )
        for place, effect in enumerate(each.effects):
            better = BY_NAME[each.measure].higher_is_better
            way = "" if not effect.shown else _way(effect, better)
            rows.append(
                _row(
                    f"{each.label} {effect.statistic}", effect, each.unit, p_value if place == 0 else "", way
                )
            )
        if not each.effects:
            rows.append([each.label, "few", "few", *["-"] * 4, p_value, ""])
    if result.errors is not None:
        rows.append(
            _row(
                "errors", result.errors, SHARE, "", _way(result.errors, False) if result.errors.shown else ""
            )
        )
    return [title(name) for name in names], rows


def _row(name: str, effect: Effect, unit: str, p_value: str, way: str) -> list[str]:
    share = "-"
    if effect.share is not None and effect.share_low is not None and effect.share_high is not None:
        share = f"{effect.share:+.1%} ({effect.share_low:+.1%} to {effect.share_high:+.1%})"
    return [
        name,
        shown(effect.a, unit),
        shown(effect.b, unit),
        shown(effect.difference, unit),
        f"{shown(effect.low, unit)} to {shown(effect.high, unit)}",
        share,
        shown(effect.detectable, unit),
        p_value,
        way,
    ]


def _way(effect: Effect, higher_is_better: bool | None) -> str:
    if higher_is_better is None:
        return "differs"
    return "better" if (effect.difference > 0) is higher_is_better else "WORSE"


def _notes(compared: Compare) -> list[str]:
    cut = ["Interrupted: what is missing was not compared."] if compared.interrupted else []
    own = compared.result.notes if compared.result is not None else []
    return [*cut, *compared.verdicts, *own, *compared.troubles]


def _says(compared: Compare) -> str:
    return (
        compared.result.says
        if compared.result is not None
        else "Nothing was compared: no pair of runs is whole."
    )
