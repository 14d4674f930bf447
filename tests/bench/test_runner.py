"""Whole runs against a simulated engine: from options to a report, a sweep, a search and a comparison."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import bench
from penstock.bench.analysis.result import Summary
from penstock.bench.analysis.search import SearchSettings
from penstock.bench.comparing import Compare, compare_folders, compare_servers
from penstock.bench.load.health import Progress
from penstock.bench.options import Options
from penstock.bench.report.compare import compare_html, compare_markdown, compare_text
from penstock.bench.report.finished import Finished
from penstock.bench.report.folder import FolderError
from penstock.bench.report.row_files import MissingLibraryError
from penstock.bench.report.search import search_html, search_markdown, search_text
from penstock.bench.report.sweep import sweep_html, sweep_markdown, sweep_text
from penstock.bench.runner import measure
from penstock.bench.searches import search
from penstock.bench.settings import SettingsError, load_of, read
from penstock.bench.sweeps import Sweep, levels, sweep
from penstock.bench.watch import Expected, Nobody
from penstock.core.errors import PenstockError
from tests.simulator.sim_client import Sim

SMALL = {"requests": 12, "concurrency": 4, "output_tokens": "4", "prompt_tokens": "24"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A simulated engine that answers in milliseconds."""
    engine = Sim(model=("sim",))
    yield f"http://127.0.0.1:{engine.port}"
    engine.stop()


@pytest.fixture(scope="module")
def finished(url: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run, which several tests look at."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options: dict[str, Any] = SMALL | {"mix": "short,long", "slo": "ttft=10s", "output": str(folder)}
    return asyncio.run(bench.run(url, **options))


def options(url: str, **more: Any) -> Options:
    return Options(url=url, **SMALL | more)


class Stopping(Nobody):
    """Ends a load when so many requests are done."""

    def __init__(self, stop: asyncio.Event, after: int) -> None:
        self._stop, self._after = stop, after

    def progress(self, progress: Progress, beside: Mapping[str, float]) -> None:
        """Looks whether it is time."""
        if progress.completed >= self._after:
            self._stop.set()


def test_a_run_has_figures_a_verdict_and_every_request(finished: Finished) -> None:
    counts = finished.summary.all.counts

    assert (counts.requests, counts.completed, counts.failed) == (12, 12, 0)
    assert sorted(sample.index for sample in finished.samples()) == list(range(12))
    assert {part.kind for part in finished.summary.kinds} == {"short", "long"}
    assert finished.summary.all.throughput.output_tokens == 48
    assert finished.verdict.reasons
    assert finished.exit_code == finished.verdict.exit_code != 0


def test_its_folder_has_what_it_says_and_a_page(finished: Finished) -> None:
    summary = msgspec.json.decode((finished.folder / "summary.json").read_bytes(), type=Summary)

    assert summary.all.counts == finished.summary.all.counts
    assert "<!doctype html>" in (finished.folder / "report.html").read_text()
    assert finished.report.meta.model == "sim"
    assert finished.report.readings is not None
    assert finished.report.readings.series["running"]


def test_a_notebook_sees_the_verdict_and_pictures(finished: Finished) -> None:
    shown = finished._repr_html_()

    assert "TOO-FEW-SAMPLES" in shown
    assert shown.count("<svg") == len(finished.charts) > 5


def test_pandas_has_a_row_for_each_request_and_a_column_for_each_measure(finished: Finished) -> None:
    frame = finished.to_pandas()

    assert len(frame) == 12
    assert {"kind", "cause", "ttft_s", "tpot_s", "e2e_s", "output_tokens"} <= set(frame.columns)
    assert (frame.output_tokens == 4).all()
    assert frame.ttft_s.between(0, 60).all()


def test_without_pandas_it_says_what_is_missing(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(MissingLibraryError, match="pandas, which is not installed"):
        finished.to_pandas()


def test_a_run_without_a_folder_keeps_its_requests_as_long_as_its_result(url: str) -> None:
    made = asyncio.run(bench.run(url, **SMALL))

    folder = made.folder
    assert len(list(made.samples())) == 12
    del made
    assert not folder.exists()


def test_a_run_that_is_stopped_reports_what_it_has(url: str, tmp_path: Path) -> None:
    async def stopped() -> Finished:
        stop = asyncio.Event()
        settings = read(options(url, requests=100_000, output=str(tmp_path / "run")))
        return await measure(settings, Stopping(stop, 20), stop=stop)

    made = asyncio.run(stopped())

    assert made.summary.interrupted
    assert made.exit_code == 130
    assert 20 <= made.summary.all.counts.completed < 100_000
    assert "Interrupted" in (tmp_path / "run" / "report.html").read_text()


def test_too_few_good_requests_have_their_own_exit_code(url: str) -> None:
    made = asyncio.run(
        bench.run(url, **SMALL | {"requests": 140}, slo="e2e=1ms", min_goodput="50%", max_error_rate="100%")
    )

    assert not made.good_enough
    assert made.exit_code == made.verdict.exit_code or made.exit_code == 15


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model": "nope"}, "nope"),
        ({"completions": True, "header": ("authorization: x",), "model": "nope"}, "nope"),
    ],
)
def test_a_run_that_can_not_begin_leaves_no_folder(
    url: str, tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(PenstockError, match=says):
        asyncio.run(measure(read(options(url, output=str(tmp_path / "run"), **more))))

    assert not (tmp_path / "run").exists()


def test_a_server_of_several_models_wants_one_named(tmp_path: Path) -> None:
    engine = Sim()
    try:
        with pytest.raises(SettingsError, match="serves 2: tiny, alias"):
            asyncio.run(bench.run(f"http://127.0.0.1:{engine.port}", **SMALL))
    finally:
        engine.stop()


def test_a_report_that_exists_is_noticed_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="exists"):
        asyncio.run(bench.run("http://127.0.0.1:9", output=str(tmp_path)))


def test_an_option_that_is_none_is_an_error() -> None:
    with pytest.raises(TypeError, match="concurency"):
        asyncio.run(bench.run("http://127.0.0.1:9", concurency=3))


def test_a_sweep_has_a_run_for_each_kind_and_load(url: str, tmp_path: Path) -> None:
    settings = read(options(url, mix="short,long", slo="ttft=10s", output=str(tmp_path / "sweep")))
    loads = [load_of(options(url, concurrency=level)) for level in (1, 2)]

    swept = asyncio.run(sweep(settings, loads, Nobody(), asyncio.Event()))

    assert [(cell.kind, cell.level) for cell in swept.cells] == [
        ("short", 1.0),
        ("short", 2.0),
        ("long", 1.0),
        ("long", 2.0),
    ]
    assert all((tmp_path / "sweep" / cell.folder / "report.html").is_file() for cell in swept.cells)
    assert "concurrency 2" in sweep_text(swept)
    assert f'href="{swept.cells[0].folder}/report.html"' in sweep_html(swept)
    assert "| short | concurrency 1 |" in sweep_markdown(swept)


def test_a_sweep_that_is_stopped_tells_of_the_runs_that_were_made(url: str) -> None:
    async def stopped() -> Sweep:
        stop = asyncio.Event()
        loads = [load_of(options(url, concurrency=level)) for level in (1, 2, 4)]
        settings = read(options(url, requests=100_000))
        return await sweep(settings, loads, Stopping(stop, 5), stop)

    swept = asyncio.run(stopped())

    assert len(swept.cells) == 1
    assert swept.exit_code == 130
    assert "Interrupted: 1 of 3 runs" in sweep_text(swept)


@pytest.mark.parametrize(
    ("text", "whole", "found"),
    [
        ("1,2,4", True, [1, 2, 4]),
        ("1..64", True, [1, 2, 4, 8, 16, 32, 64]),
        ("3..10", True, [3, 6, 10]),
        ("0.5,2", False, [0.5, 2]),
        ("4", True, [4]),
    ],
)
def test_levels_can_double(text: str, whole: bool, found: list[float]) -> None:
    assert levels(text, whole=whole) == found


@pytest.mark.parametrize("text", ["", "a", "0", "4..2", "1.5", "1..", "nan", "1..inf"])
def test_levels_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises(SettingsError, match="no list of loads"):
        levels(text, whole=True)


def test_a_search_ends_between_what_met_and_what_missed(url: str, tmp_path: Path) -> None:
    settings = read(options(url, slo="e2e=10s", output=str(tmp_path / "search")))
    how = SearchSettings(start=1.0, most=2.0, whole=True, share=0.8)

    found = asyncio.run(search(settings, how, Nobody(), asyncio.Event()))

    assert found.found is not None
    assert found.exit_code == (0 if found.found.low else 15)
    assert len(found.tried) >= 2
    assert (tmp_path / "search" / found.tried[0].folder / "report.html").is_file()
    for form in (search_text, search_markdown, search_html):
        assert "knee" in form(found)


def test_a_search_needs_an_slo(url: str) -> None:
    with pytest.raises(SettingsError, match="a search needs limits"):
        asyncio.run(search(read(options(url)), SearchSettings(), Nobody(), asyncio.Event()))


def test_two_servers_are_compared_in_turns(url: str, tmp_path: Path) -> None:
    slow = Sim(model=("sim",), base_step_s=0.02)
    try:
        pair = (read(options(url)), read(options(f"http://127.0.0.1:{slow.port}")))
        compared = asyncio.run(
            compare_servers(pair, 2, Nobody(), asyncio.Event(), interleave=True, output=tmp_path / "compare")
        )
    finally:
        slow.stop()

    assert compared.result is not None
    assert compared.result.pairs == 2
    assert sorted(path.name for path in (tmp_path / "compare").iterdir()) == ["01-a", "01-b", "02-a", "02-b"]
    began = {
        path.name: msgspec.json.decode((path / "meta.json").read_bytes())["started_at"]
        for path in (tmp_path / "compare").iterdir()
    }
    assert sorted(began, key=began.__getitem__) == ["01-a", "01-b", "02-b", "02-a"]
    for form in (compare_text, compare_markdown, compare_html):
        assert "TPOT" in form(compared)


def test_a_run_compared_with_itself_shows_no_difference(finished: Finished) -> None:
    compared = compare_folders(finished.folder, finished.folder)

    assert compared.result is not None
    assert compared.worse == []
    assert compared.exit_code(fail_if_worse=True) == 0


def test_a_comparison_that_was_interrupted_compares_nothing() -> None:
    compared = Compare(None, ("a", "b"), interrupted=True)

    assert compared.exit_code() == 130
    assert "Nothing was compared" in compare_text(compared)


def test_what_is_left_is_told_by_time_or_by_work() -> None:
    by_time = Expected("x", duration_s=60.0, requests=None, warmup_s=5.0)
    by_work = Expected("x", duration_s=None, requests=100, warmup_s=0.0)
    unknown: Callable[[Progress], float | None] = by_work.left_s

    assert by_time.left_s(Progress(elapsed_s=45.0)) == pytest.approx(15.0)
    assert by_work.left_s(Progress(elapsed_s=10.0, completed=20, failed=5)) == pytest.approx(30.0)
    assert unknown(Progress(elapsed_s=10.0)) is None
    assert by_work.part_done(Progress(completed=200)) == 1.0
