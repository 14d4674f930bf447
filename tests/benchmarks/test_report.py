"""Medians, bars and tables of a sitting that was made up."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from benchmarks.gateway.bars import asserted, verdicts
from benchmarks.gateway.plan import FULL, QUICK
from benchmarks.gateway.plot import as_svg
from benchmarks.gateway.report import as_markdown
from benchmarks.gateway.sitting import Cell, Results, Start


def sitting(**cpu_us: float) -> Results:
    """One round of the load `many`, at this cost for each arm."""
    results = Results(QUICK, tuple(cpu_us))
    results.cells = [Cell(arm, 0, "many", 100, cpu_us=cost) for arm, cost in cpu_us.items()]
    results.starts = [Start(arm, 0, 0.5, 50.0, 1) for arm in cpu_us]
    return results


def found(results: Results, wanted: str) -> tuple[str, bool]:
    verdict = next(one for one in verdicts(results) if one.wanted == wanted)
    return verdict.found, verdict.met


def test_void_cells_count_in_no_median_and_are_told() -> None:
    results = sitting(nginx=10.0, penstock=14.0)
    results.cells.append(Cell("penstock", 1, "many", 100, cpu_us=1.0, void="status 500"))

    assert found(results, "at most 1.5 times nginx") == ("1.40 times", True)
    assert "- penstock, many, round 2: status 500" in as_markdown(results, "x")


@pytest.mark.parametrize(("ours", "met"), [(15.0, True), (15.1, False)])
def test_the_ratio_to_nginx_is_asserted_at_its_bar(ours: float, met: bool) -> None:
    results = sitting(nginx=10.0, penstock=ours)

    assert [one.wanted for one in asserted(results)] == ([] if met else ["at most 1.5 times nginx"])


def test_a_ratio_that_was_not_measured_is_not_met() -> None:
    results = sitting(nginx=10.0, penstock=12.0)
    results.cells[0].void = "no connection"

    assert [(one.wanted, one.found) for one in asserted(results)] == [("at most 1.5 times nginx", "")]


def test_numbers_of_this_machine_alone_are_reported_but_not_asserted() -> None:
    results = sitting(nginx=30.0, penstock=40.0)

    assert found(results, "at most 20 µs") == ("40.0", False)
    assert asserted(results) == []


def test_the_best_of_the_rust_routers_is_the_one_to_beat() -> None:
    results = sitting(**{"smg": 26.0, "vllm-router": 22.0, "penstock": 23.0})

    assert found(results, "below every Rust router") == ("23.0; vllm-router 22.0", False)


def test_two_workers_are_judged_by_throughput_and_by_the_busier_one() -> None:
    results = Results(FULL, ("penstock", "penstock-2"))
    results.cells = [
        Cell("penstock", 0, "throttled", 1, per_s=1000.0),
        Cell("penstock-2", 0, "throttled", 1, per_s=1690.0),
        Cell("penstock", 0, "many", 1, cpu_us=20.0, busiest_cpu_us=20.0),
        Cell("penstock-2", 0, "pair", 1, cpu_us=20.0, busiest_cpu_us=11.0),
    ]

    two = [one for one in verdicts(results) if one.bar.startswith("two workers")]

    assert [(one.found, one.met) for one in two] == [("1.69 times", False), ("1.82 times", True)]


def test_added_time_is_held_against_the_direct_run() -> None:
    results = Results(FULL, ("direct", "penstock"))
    for arm, ttft_ms in (("direct", 0.3), ("penstock", 3.2)):
        results.cells.append(Cell(arm, 0, "first", 1, times_ms={"ttft_p50": ttft_ms, "ttft_p99": ttft_ms}))

    assert found(results, "at most 1 ms above direct") == ("3.20 ms; direct 0.30 ms", False)
    assert found(results, "at most 3 ms above direct") == ("3.20 ms; direct 0.30 ms", True)


def test_rows_that_lose_name_who_is_better_the_best_first() -> None:
    text = as_markdown(sitting(nginx=12.0, haproxy=11.0, smg=25.0, penstock=16.0), "x")

    assert "| µs CPU per event, 200 streams | 16.0 | haproxy 11.0, nginx 12.0 |" in text


def test_short_gaps_of_tokens_that_come_in_bunches_beat_nobody() -> None:
    results = Results(FULL, ("litellm", "nginx", "penstock"))
    for arm, p50, p99 in (("litellm", 0.3, 8.0), ("nginx", 20.0, 21.0), ("penstock", 20.1, 22.0)):
        results.cells.append(Cell(arm, 0, "many", 1, times_ms={"gap_p50": p50, "gap_p99": p99}))

    text = as_markdown(results, "x")

    assert "| gap p99, 200 streams | 22.00 | nginx 21.00 |" in text
    assert "| gap p50, 200 streams | 20.10 |" not in text


def test_an_arm_that_could_not_be_had_is_named_with_the_reason() -> None:
    results = sitting(nginx=12.0, penstock=16.0)
    results.skipped["smg"] = "pip could not install it: no such thing"

    assert "- left out: **smg**: pip could not install it: no such thing" in as_markdown(results, "x")


def test_the_spread_is_shown_where_there_are_rounds() -> None:
    results = sitting(penstock=16.0)
    results.cells += [
        Cell("penstock", number, "many", 1, cpu_us=cost) for number, cost in ((1, 15.0), (2, 21.0))
    ]

    assert "16.0 (15.0–21.0)" in as_markdown(results, "x")  # noqa: RUF001 - a range


def test_the_picture_has_a_row_for_each_arm_and_survives_one_without_numbers() -> None:
    results = sitting(**{"nginx": 12.0, "a<b": 0.0, "penstock": 16.0})

    svg = as_svg(results, ["nginx", "a<b", "penstock", "smg"])

    words = [text.text for text in ET.fromstring(svg).iter() if text.text]
    assert words.count("penstock") == words.count("nginx") == 2
    assert "smg" not in words


def test_the_picture_of_nothing_is_a_picture() -> None:
    assert ET.fromstring(as_svg(Results(QUICK), [])).tag.endswith("svg")
