"""Charts: what is drawn, what is left out, and that every one is well-formed whatever it is given."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.bench.analysis.result import Counts, Distribution, Moment, Part, Summary, Throughput, Window
from penstock.bench.report.chart_scale import Axis, Scale
from penstock.bench.report.charts import run_charts
from penstock.bench.report.drawing import Chart, Line, Shade, bar_chart, line_chart
from penstock.bench.report.picks import Pick, Picks
from penstock.bench.report.shown import shown
from penstock.bench.sample import Cause, Sample

SVG = "{http://www.w3.org/2000/svg}"
numbers = st.floats(min_value=-1e9, max_value=1e9)


def summary() -> Summary:
    curve = [0.1 + 0.01 * step for step in range(11)]
    part = Part(
        "all",
        Window(2.0, 10.0),
        Counts(requests=10, completed=9, failed=1, by_cause={"reset": 1}),
        Throughput(),
        measures={"ttft": Distribution("ttft", "s", 10, curve=curve)},
    )
    moments = [Moment(at_s=at, ttft_p50_s=0.1, ttft_p95_s=0.2, failed_per_s=at == 3) for at in range(10)]
    return Summary(part, duration_s=10.0, over_time=moments)


def pick(index: int, cause: Cause = Cause.NONE) -> Pick:
    return Pick(index, "<short>", 0, index, index, index + 0.1, index + 1.0, index + 1.1, cause, 8)


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg)


def test_a_run_has_the_charts_of_what_it_measured_and_no_others() -> None:
    charts = run_charts(summary(), [pick(1), pick(2)], engine={"running": [(0.0, 1.0), (1.0, 3.0)]})

    names = [chart.name for chart in charts]
    assert {"ttft-over-time", "ttft-cdf", "e2e-requests", "timeline", "errors", "engine-requests"} <= set(
        names
    )
    assert not {"tpot-cdf", "engine-kv", "gpu-power"} & set(names)
    assert len(names) == len(set(names))


def test_every_chart_is_well_formed_and_text_from_outside_is_escaped() -> None:
    charts = run_charts(summary(), [pick(1), pick(2, Cause.RESET)])

    assert all(parsed(chart).tag == f"{SVG}svg" for chart in charts)
    assert "&lt;short&gt;" in charts["e2e-requests"].html()
    assert "<short>" not in charts._repr_html_()


def test_an_empty_run_still_has_charts_that_can_be_shown() -> None:
    empty = Summary(Part("all", Window(0.0, 0.0), Counts(), Throughput()))

    assert len(run_charts(empty)) == 0
    assert "<style>" in run_charts(empty)._repr_html_()


def test_a_chart_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(KeyError, match="there are ttft-over-time"):
        run_charts(summary())["nope"]


def test_a_point_without_a_value_is_a_gap() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 1.0), (4.0, 2.0)]

    chart = line_chart("a", "a", [Line("a", points)], Axis("x"), Axis("y"))

    assert len(parsed(chart).findall(f"{SVG}path")) == 2


def test_one_series_needs_no_legend_and_two_do() -> None:
    one = Line("one", [(0.0, 1.0), (1.0, 2.0)])
    two = Line("two", [(0.0, 1.0), (1.0, 2.0)])

    assert "legend" not in line_chart("a", "a", [one], Axis("x"), Axis("y")).html()
    assert line_chart("a", "a", [one, two], Axis("x"), Axis("y")).html().count('class="key') == 2


@given(
    st.lists(st.tuples(numbers, st.none() | numbers), max_size=30).map(
        lambda points: sorted(points, key=str)
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_numbers_make_a_picture_within_its_frame(
    points: list[tuple[float, float | None]], log_x: bool, log_y: bool
) -> None:
    chart = line_chart(
        "a",
        "a",
        [Line("a", points, dots=True)],
        Axis("x", "s", log_x),
        Axis("y", "s", log_y),
        shades=[Shade(0, 1)],
    )

    for circle in parsed(chart).iter(f"{SVG}circle"):
        assert 0 <= float(circle.get("cx", "nan")) <= 640
        assert 0 <= float(circle.get("cy", "nan")) <= 270


@given(st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=1), st.booleans())
@example([999_999_999.0], True)
def test_a_scale_has_a_place_for_every_value_and_few_ticks(values: list[float], log: bool) -> None:
    scale = Scale.of(Axis("x", "s", log), values, 10.0, 110.0)

    assert all(10.0 <= scale.place(value) <= 110.0 for value in values)
    assert scale.low <= min(values)
    assert scale.high >= max(values) * (1 - 1e-6)
    assert 2 <= len(scale.ticks()) <= 18
    assert all(math.isfinite(value) for value, _ in scale.ticks())


def test_bars_tell_their_values() -> None:
    chart = bar_chart("errors", "Errors", [("429", 12.0, "c0"), ("reset", 0.0, "c0")], "")

    assert [text.text for text in parsed(chart).iter(f"{SVG}text")] == ["429", "12", "reset", "0"]


def test_a_short_run_is_picked_whole_and_of_a_long_one_stretches_of_neighbours() -> None:
    short, long = Picks(), Picks(most=100, stretch=10)
    for index in range(50):
        short.add(Sample(index, "short", 0, scheduled_s=index, ended_s=index + 1))
    for index in range(5000):
        long.add(Sample(index, "short", 0, scheduled_s=index, ended_s=index + 1))

    kept = [each.index for each in long.all()]
    assert [each.index for each in short.all()] == list(range(50))
    assert 40 <= len(kept) <= 100
    assert all(index // 10 * 10 + 9 in kept for index in kept)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.0, "s", "0 ms"),
        (1.5, "s", "1.50 s"),
        (1234.5678, "s", "1,235 s"),
        (0.987, "share", "98.7 %"),
        (12345.0, "tokens/s", "12,345 tokens/s"),
        (2.5e9, "bytes", "2.50 GB"),
        (90.0, "elapsed", "90.0 s"),
        (1800.0, "elapsed", "30.0 min"),
        (None, "s", "-"),
        (42.0, "", "42"),
        (0.5, "", "0.500"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: float | None, unit: str, text: str) -> None:
    assert shown(value, unit) == text
