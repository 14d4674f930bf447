"""Charts as SVG, made by hand: no library, no script, no font from elsewhere.

A chart has one vertical axis, thin lines, a grid that stays behind, a legend from two series on, and colours that
are told by CSS variables (`charts.css`), so that light or dark is the reader's choice. What lies under the pointer is
told by the browser itself (`<title>`). Whatever comes from outside is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.bench.report.chart_scale import Axis, Scale
from penstock.bench.report.shown import shown

WIDTH, HEIGHT = 640, 276
# The name of the vertical axis stands above the plot.
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 26, 44
# As many colours as there are; further series begin anew, dashed.
COLOURS = 6
# A pointer finds no narrower strip.
STRIPS_MAX = 120
# A line has no more bends than pixels.
POINTS_MAX = 640

Point = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: its name, the class of its colour, and `dashed` or `block` for its shape."""

    name: str
    colour: str
    shape: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture.

    Args:
        name: for links and files, such as `ttft-over-time`.
        title: what it shows.
        caption: how to read it.
        svg: the picture.
        legend: its series; shown from two on.
    """

    name: str
    title: str
    svg: str
    caption: str = ""
    legend: tuple[Key, ...] = ()

    def html(self) -> str:
        """The picture with its title, for a page that has `style()`."""
        keys = "".join(
            f'<span class="key {key.colour} {key.shape}"><span>{html.escape(key.name)}</span></span>'
            for key in self.legend
        )
        legend = f'<div class="legend">{keys}</div>' if len(self.legend) > 1 else ""
        caption = f"<small>{html.escape(self.caption)}</small>" if self.caption else ""
        return (
            f'<figure class="chart" id="{html.escape(self.name)}"><figcaption><b>{html.escape(self.title)}</b>'
            f"{caption}</figcaption>{legend}{self.svg}</figure>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f'<style>{style()}</style><div class="penstock alone">{self.html()}</div>'


@dataclass(frozen=True, slots=True)
class Charts:
    """The pictures of a run, in their order."""

    all: tuple[Chart, ...]

    def __iter__(self) -> Iterator[Chart]:
        """The pictures."""
        return iter(self.all)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.all)

    def __getitem__(self, name: str) -> Chart:
        """The picture of that name.

        Raises:
            KeyError: there is none.
        """
        found = next((chart for chart in self.all if chart.name == name), None)
        if found is None:
            raise KeyError(f"no chart {name!r}; there are {', '.join(chart.name for chart in self.all)}")
        return found

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        pictures = "".join(chart.html() for chart in self.all)
        return f'<style>{style()}</style><div class="penstock alone">{pictures}</div>'


def style() -> str:
    """The style of all charts."""
    return Path(__file__).with_name("charts.css").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Line:
    """One series: points with ascending x; a point without y leaves a gap.

    Args:
        dashed: such as for a limit.
        dots: marks each point, for few of them.
        colour: class of its colour; empty is the next one.
        says: what each point is told as, in place of its values; empty tells the values.
    """

    name: str
    points: Sequence[Point]
    dashed: bool = False
    dots: bool = False
    colour: str = ""
    says: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Shade:
    """A strip from one x to another, such as a time that is left out, with its name."""

    begins: float
    ends: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A value that is not to be passed, drawn across."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One request in a cloud.

    Args:
        colour: class of its colour, such as `c1`.
        cross: drawn as a cross: it failed.
    """

    x: float
    y: float
    colour: str
    says: str
    cross: bool = False


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    caption: str = "",
    shades: Sequence[Shade] = (),
    limits: Sequence[Limit] = (),
) -> Chart:
    """Lines over a common x."""
    drawn = [line for line in lines if any(value is not None for _, value in line.points)]
    held = [(at, value) for line in drawn for at, value in line.points if value is not None]
    across, up = _scales(x, y, held, limits)
    parts = [*_shades(shades, across), *grid(across, up), *_limits(limits, across, up)]
    for place, line in enumerate(drawn):
        parts += _line(line, line.colour or colour(place), across, up)
    parts += _strips(drawn, across, x, y)
    legend = tuple(
        Key(line.name, line.colour or colour(at), _dashed(line, at)) for at, line in enumerate(drawn)
    )
    return Chart(name, title, svg(parts, HEIGHT, title), caption, legend)


def cloud_chart(
    name: str,
    title: str,
    dots: Sequence[Dot],
    x: Axis,
    y: Axis,
    *,
    caption: str = "",
    legend: tuple[Key, ...] = (),
    shades: Sequence[Shade] = (),
    limits: Sequence[Limit] = (),
) -> Chart:
    """One dot for each request."""
    across, up = _scales(x, y, [(dot.x, dot.y) for dot in dots], limits)
    parts = [*_shades(shades, across), *grid(across, up), *_limits(limits, across, up)]
    for dot in dots:
        left, top = across.place(dot.x), up.place(dot.y)
        tip = f"<title>{html.escape(dot.says)}</title>"
        if dot.cross:
            mark = f"M{left - 3:.1f} {top - 3:.1f}l6 6m0 -6l-6 6"
            parts.append(f'<path class="cross {dot.colour}" d="{mark}">{tip}</path>')
        else:
            parts.append(
                f'<circle class="faint {dot.colour}" cx="{left:.1f}" cy="{top:.1f}" r="2.6">{tip}</circle>'
            )
    return Chart(name, title, svg(parts, HEIGHT, title), caption, legend)


def bar_chart(
    name: str, title: str, bars: Sequence[tuple[str, float, str]], unit: str, *, caption: str = ""
) -> Chart:
    """Horizontal bars: label, value at least 0, and the class of the colour."""
    largest = max((value for _, value, _ in bars), default=0.0) or 1.0
    row, left, room = 30, 170, WIDTH - 170 - 90
    parts = []
    for place, (label, value, colour) in enumerate(bars):
        top = 8 + place * row
        width = max(2.0, room * value / largest) if value else 0.0
        says = html.escape(f"{label}: {shown(value, unit)}")
        parts.append(
            f'<text x="{left - 10}" y="{top + 15}" text-anchor="end">{html.escape(_short(label, 24))}</text>'
            f'<rect class="fill {colour}" x="{left}" y="{top + 1}" width="{width:.1f}" height="20" rx="3">'
            f"<title>{says}</title></rect>"
            f'<text x="{left + width + 8:.1f}" y="{top + 15}">{html.escape(shown(value, unit))}</text>'
        )
    return Chart(name, title, svg(parts, 16 + row * len(bars), title), caption)


def svg(parts: Iterable[str], height: float, title: str, width: int = WIDTH) -> str:
    """The parts as one picture, as wide as its place."""
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{html.escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def grid(across: Scale, up: Scale) -> list[str]:
    """Lines, labels and names of both axes."""
    left, right, bottom, top = across.begins, across.ends, up.begins, up.ends
    parts = []
    for value, label in up.ticks():
        y = up.place(value)
        parts.append(
            f'<line class="grid" x1="{left:.0f}" x2="{right:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for value, label in across.ticks():
        x = across.place(value)
        parts.append(
            f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.0f}" y2="{bottom + 4:.0f}"/>'
            f'<text x="{x:.1f}" y="{bottom + 18:.0f}" text-anchor="middle">{label}</text>'
        )
    parts.append(
        f'<line class="base" x1="{left:.0f}" x2="{right:.0f}" y1="{bottom:.0f}" y2="{bottom:.0f}"/>'
        f'<text class="label" x="{right:.0f}" y="{bottom + 35:.0f}" text-anchor="end">{_named(across)}</text>'
        f'<text class="label" x="{left:.0f}" y="{top - 12:.0f}">{_named(up)}</text>'
    )
    return parts


def _named(scale: Scale) -> str:
    label, suffix = scale.axis.label, scale.suffix
    return html.escape(f"{label} ({suffix})" if label and suffix and suffix != label else label or suffix)


def _scales(
    x: Axis, y: Axis, held: Sequence[tuple[float, float]], limits: Sequence[Limit]
) -> tuple[Scale, Scale]:
    across = Scale.of(x, [at for at, _ in held], LEFT, WIDTH - RIGHT)
    # A limit far above all values would press them to the ground.
    most = max((value for _, value in held), default=0.0)
    near = [limit.value for limit in limits if limit.value <= 3 * most]
    return across, Scale.of(y, [*(value for _, value in held), *near], HEIGHT - BOTTOM, TOP)


def colour(place: int) -> str:
    """The class of the colour of the series at `place`, from 0."""
    return f"c{place % COLOURS + 1}"


def _dashed(line: Line, place: int) -> str:
    return "dashed" if line.dashed or place >= COLOURS else ""


def _line(line: Line, shade: str, across: Scale, up: Scale) -> list[str]:
    parts, stretch = [], list[tuple[float, float]]()
    stretches = [stretch]
    for at, value in thinned(line.points, POINTS_MAX):
        if value is None or (up.axis.log and value <= 0) or (across.axis.log and at <= 0):
            stretch = []
            stretches.append(stretch)
        else:
            stretch.append((across.place(at), up.place(value)))
    dashed = " dashed" if line.dashed else ""
    for each in stretches:
        if len(each) > 1:
            path = "L".join(f"{left:.1f} {top:.1f}" for left, top in each)
            parts.append(f'<path class="line {shade}{dashed}" d="M{path}"/>')
        if line.dots or len(each) == 1:
            parts += [
                f'<circle class="dot {shade}" cx="{left:.1f}" cy="{top:.1f}" r="4.5"/>' for left, top in each
            ]
    return parts


def _limits(limits: Sequence[Limit], across: Scale, up: Scale) -> list[str]:
    return [
        f'<line class="line dashed c0" x1="{across.begins:.0f}" x2="{across.ends:.0f}" '
        f'y1="{up.place(limit.value):.1f}" y2="{up.place(limit.value):.1f}"/>'
        f'<text class="label" x="{across.ends:.0f}" y="{up.place(limit.value) - 5:.1f}" text-anchor="end">'
        f"{html.escape(limit.label)}</text>"
        for limit in limits
        if limit.value <= up.high
    ]


def _shades(shades: Sequence[Shade], across: Scale) -> list[str]:
    parts = []
    for shade in shades:
        left, right = across.place(shade.begins), across.place(shade.ends)
        if right - left < 1:
            continue
        parts.append(
            f'<rect class="shade" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}"><title>{html.escape(shade.label)}</title></rect>'
        )
        # A label needs room, some seven pixels for each letter.
        if right - left > 6.5 * len(shade.label):
            parts.append(
                f'<text class="label" x="{(left + right) / 2:.1f}" y="{TOP + 16}" text-anchor="middle">'
                f"{html.escape(shade.label)}</text>"
            )
    return parts


def _strips(lines: Sequence[Line], across: Scale, x: Axis, y: Axis) -> list[str]:
    """What each series is at each x, for the pointer."""
    told: dict[float, list[str]] = {}
    for line in lines:
        points = line.points if line.says else thinned(line.points, STRIPS_MAX)
        for place, (at, value) in enumerate(points):
            if value is not None:
                told.setdefault(at, []).append(
                    line.says[place] if line.says else f"{line.name}: {shown(value, y.unit)}"
                )
    places = sorted((across.place(at), at) for at in told)
    parts = []
    for number, (left, at) in enumerate(places):
        begins = (places[number - 1][0] + left) / 2 if number else across.begins
        ends = (places[number + 1][0] + left) / 2 if number + 1 < len(places) else across.ends
        says = "\n".join((f"{x.label}: {shown(at, x.unit)}".removeprefix(": "), *told[at]))
        parts.append(
            f'<rect class="hit" x="{begins:.1f}" y="{TOP}" width="{max(0.5, ends - begins):.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}"><title>{html.escape(says)}</title></rect>'
        )
    return parts


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most about `most` of the points, evenly, with both ends."""
    if len(points) <= most:
        return points
    step = -(-len(points) // most)
    kept = list(points[::step])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _short(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
