"""The timeline of requests: one thin bar for each, in the parts that its time went to."""

from __future__ import annotations

import html
from collections.abc import Sequence

from penstock.bench.report.chart_scale import Axis, Scale
from penstock.bench.report.drawing import RIGHT, WIDTH, Chart, Key, svg
from penstock.bench.report.picks import Pick
from penstock.bench.report.shown import DURATION, ELAPSED, shown

# More bars than this are thinner than a line.
BARS_MAX = 90
_ROW, _BAR, _TOP, _BOTTOM = 6.0, 4.4, 8, 40
# It takes the place of two charts.
_WIDTH, _LEFT = 2 * WIDTH - 80, 16
LEGEND = (
    Key("waited for the client", "wait", "block"),
    Key("to the first token", "first", "block"),
    Key("answer", "rest", "block"),
    Key("to the end of the stream", "tail", "block"),
    Key("failed or cancelled", "lost", "block"),
)


def timeline_chart(picks: Sequence[Pick], *, begins_s: float = 0.0) -> Chart | None:
    """The first requests scheduled from `begins_s` on; None without any.

    Args:
        picks: by scheduled time.
    """
    later = [pick for pick in picks if pick.scheduled_s >= begins_s]
    shown_picks = (later if len(later) >= min(len(picks), BARS_MAX) else picks)[:BARS_MAX]
    if not shown_picks:
        return None
    first = min(pick.scheduled_s for pick in shown_picks)
    last = max(pick.ended_s for pick in shown_picks)
    height = _TOP + _ROW * len(shown_picks) + _BOTTOM
    axis = Axis("time since the start", ELAPSED, least=first, most=last)
    across = Scale.of(axis, [first, last], _LEFT, _WIDTH - RIGHT)
    parts = _ticks(across, height - _BOTTOM)
    for row, pick in enumerate(shown_picks):
        parts += _bar(pick, _TOP + row * _ROW, across)
    caption = (
        f"{len(shown_picks)} requests in the order of their scheduled times, "
        f"{shown(first, ELAPSED)} to {shown(last, ELAPSED)}"
    )
    seen = {part for pick in shown_picks for part, _, _ in _parts(pick)}
    legend = tuple(key for key in LEGEND if key.colour in seen)
    return Chart("timeline", "Timeline of requests", svg(parts, height, "Timeline", _WIDTH), caption, legend)


def _parts(pick: Pick) -> list[tuple[str, float, float]]:
    """Class, begin and end of each part that took time."""
    sent = pick.sent_s if pick.sent_s is not None else pick.ended_s
    first = pick.first_s if pick.first_s is not None else pick.ended_s
    last = pick.last_s if pick.last_s is not None else pick.ended_s
    parts = [
        ("wait", pick.scheduled_s, sent),
        ("first", sent, first),
        ("rest", first, last),
        ("tail" if pick.good else "lost", last, pick.ended_s),
    ]
    # What the client needs itself, a millisecond, is no wait.
    told = [(part, begin, end) for part, begin, end in parts if end - begin > 0.001]
    if not pick.good and not any(part == "lost" for part, _, _ in told):
        told.append(("lost", pick.ended_s, pick.ended_s))
    return told


def _bar(pick: Pick, top: float, across: Scale) -> list[str]:
    says = [f"request {pick.index}, {pick.kind}"]
    if pick.first_s is not None:
        says.append(f"TTFT {shown(pick.first_s - pick.scheduled_s, DURATION)}")
    says += [f"{shown(pick.ended_s - pick.scheduled_s, DURATION)} in all", f"{pick.tokens} tokens"]
    if not pick.good:
        says.append(str(pick.cause))
    rects = "".join(
        f'<rect class="fill {part}" x="{across.place(begin):.1f}" y="{top:.1f}" '
        f'width="{max(2.0 if part == "lost" else 0.4, across.place(end) - across.place(begin)):.1f}" '
        f'height="{_BAR}"/>'
        for part, begin, end in _parts(pick)
    )
    return [f"<g><title>{html.escape(chr(10).join(says))}</title>{rects}</g>"]


def _ticks(across: Scale, bottom: float) -> list[str]:
    parts = []
    for value, label in across.ticks():
        left = across.place(value)
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP}" y2="{bottom:.0f}"/>'
            f'<text x="{left:.1f}" y="{bottom + 16:.0f}" text-anchor="middle">{label}</text>'
        )
    parts.append(
        f'<text class="label" x="{across.ends:.0f}" y="{bottom + 33:.0f}" text-anchor="end">'
        f"{across.axis.label} ({across.suffix})</text>"
    )
    return parts
