"""The picture: for each cost a row of dots on a logarithmic scale, one for each arm, with its spread and its bar."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.gateway.arms import OURS
from benchmarks.gateway.measures import EVENT_MANY, IDLE_RSS, PLAIN, STREAM_KB, Measure
from benchmarks.gateway.sitting import Results

BARS = ((EVENT_MANY, 20.0), (PLAIN, 100.0), (IDLE_RSS, 60.0), (STREAM_KB, 12.0))
WIDTH, NAMES_WIDTH, NUMBERS_WIDTH = 860, 140, 90
ROW_HEIGHT, HEAD_HEIGHT, FOOT_HEIGHT = 22, 50, 36
CAPTION = "Dot: median; line: least to most of the rounds; dashed: the bar. Logarithmic scales; further left is better."
INK, FAINT, OURS_INK, BAR_INK = "#1f2933", "#d5dae0", "#0b6e99", "#c2410c"


@dataclass(frozen=True, slots=True)
class _Scale:
    least: float
    most: float

    @classmethod
    def around(cls, values: Sequence[float]) -> _Scale:
        """Whole and half decades that hold all of them."""
        floor = 10 ** math.floor(math.log10(min(values)))
        ceiling = 10 ** math.ceil(math.log10(max(values)))
        least = floor * 3 if min(values) >= floor * 3 else floor
        most = ceiling * 0.3 if max(values) <= ceiling * 0.3 else ceiling
        return cls(least, most if most > least else most * 10)

    def x(self, value: float) -> float:
        span = math.log10(self.most / self.least)
        inner = WIDTH - NAMES_WIDTH - NUMBERS_WIDTH
        return NAMES_WIDTH + inner * math.log10(max(value, self.least) / self.least) / span

    def ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
        marks = [step * 10.0**decade for decade in decades for step in (1, 3)]
        return [mark for mark in marks if self.least * 0.999 <= mark <= self.most * 1.001]


def as_svg(results: Results, arms: Sequence[str]) -> str:
    """The whole picture, as the text of an SVG file; measures that no arm has are left out."""
    top, parts = 0.0, []
    for measure, bar in BARS:
        rows = [(arm, [value for value in measure.values(results, arm) if value > 0]) for arm in arms]
        rows = [(arm, values) for arm, values in rows if values]
        if rows:
            height, drawn = _panel(measure, measure.name(results.plan), rows, bar)
            parts.append(f'<g transform="translate(0 {top:.0f})">{drawn}</g>')
            top += height
    parts.append(_text(8, top + 12, CAPTION, size=11))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 24:.0f}" width="{WIDTH}" '
        f'height="{top + 24:.0f}" font-family="system-ui, sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _panel(
    measure: Measure, title: str, rows: Sequence[tuple[str, Sequence[float]]], bar: float
) -> tuple[float, str]:
    rows = sorted(rows, key=lambda row: statistics.median(row[1]))
    scale = _Scale.around([value for _, values in rows for value in values] + [bar])
    bottom = HEAD_HEIGHT + ROW_HEIGHT * len(rows)
    parts = [_text(8, 22, title, size=15, weight="600")]
    for tick in scale.ticks():
        x = scale.x(tick)
        parts.append(_line(x, HEAD_HEIGHT, x, bottom, FAINT))
        parts.append(_text(x, bottom + 16, f"{tick:,.10g}", anchor="middle", size=11))
    x = scale.x(bar)
    parts.append(_line(x, HEAD_HEIGHT - 4, x, bottom, BAR_INK, width=1.5, dashes="5 4"))
    parts.append(_text(x, HEAD_HEIGHT - 8, f"bar {bar:g}", anchor="middle", size=11, ink=BAR_INK))
    for number, (arm, values) in enumerate(rows):
        parts += _row(measure, scale, HEAD_HEIGHT + ROW_HEIGHT * (number + 0.5), arm, values)
    return bottom + FOOT_HEIGHT, "".join(parts)


def _row(measure: Measure, scale: _Scale, y: float, arm: str, values: Sequence[float]) -> list[str]:
    ink, weight = (OURS_INK, "600") if arm in OURS else (INK, "400")
    middle = statistics.median(values)
    return [
        _text(NAMES_WIDTH - 12, y + 4, arm, anchor="end", ink=ink, weight=weight),
        _line(scale.x(min(values)), y, scale.x(max(values)), y, ink, width=3),
        f'<circle cx="{scale.x(middle):.1f}" cy="{y:.1f}" r="5" fill="{ink}"/>',
        _text(WIDTH - 12, y + 4, measure.form.format(middle), anchor="end", ink=ink, weight=weight),
    ]


def _line(
    x1: float, y1: float, x2: float, y2: float, ink: str, *, width: float = 1.0, dashes: str = "none"
) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}" '
        f'stroke-width="{width}" stroke-dasharray="{dashes}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 13,
    ink: str = INK,
    weight: str = "400",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{ink}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
