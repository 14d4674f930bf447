"""A run's folder: what is in it, that an old one is safe, and what a full disk leaves."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from penstock.bench.analysis.attribution import Attributing
from penstock.bench.beside.pages import Readings
from penstock.bench.load.spool import SpoolWriter, spool_path
from penstock.bench.report.folder import FolderError, RowsFormat, RunFolder, read_run, samples_of
from penstock.bench.report.row_files import MissingLibraryError
from penstock.bench.sample import Sample
from tests.bench.answers import answer
from tests.bench.reports import both_kinds, report
from tests.bench.test_spool import room_for

SAMPLES = both_kinds(60)


def spooled(folder: RunFolder, samples: list[Sample] = SAMPLES) -> None:
    folder.spool.mkdir()
    writer = SpoolWriter(spool_path(folder.spool, 0))
    for sample in samples:
        writer.write(sample)
    writer.flush()
    writer.close()


@pytest.mark.parametrize("rows", [RowsFormat.JSONL, RowsFormat.PARQUET])
def test_a_run_is_read_as_it_was_written(tmp_path: Path, rows: RowsFormat) -> None:
    folder = RunFolder.made(tmp_path / "run", rows)
    spooled(folder)
    kept = list(folder.keeping(iter(SAMPLES)))
    made = replace(
        report(SAMPLES, rows=folder.rows_name), readings=Readings([], {"running": [(0.0, 1.0)]}, {}, [])
    )

    folder.tidy()
    folder.write(made)

    again = read_run(folder.path)
    assert folder.troubles == []
    assert kept == SAMPLES
    assert list(samples_of(folder.path)) == SAMPLES
    assert msgspec.json.encode(again.summary) == msgspec.json.encode(made.summary)
    assert again.meta == made.meta
    assert again.readings == made.readings
    assert [pick.index for pick in again.picks] == [pick.index for pick in made.picks]
    assert not folder.spool.exists()
    assert {"report.html", "report.md", folder.rows_name} <= {path.name for path in folder.path.iterdir()}


def test_without_rows_a_folder_has_no_single_requests(tmp_path: Path) -> None:
    folder = RunFolder.made(tmp_path / "run", RowsFormat.NONE)
    spooled(folder)
    list(folder.keeping(iter(SAMPLES)))

    folder.tidy()
    folder.write(report(SAMPLES, rows=""))

    assert list(samples_of(folder.path)) == []
    assert read_run(folder.path).summary.all.counts.requests == len(SAMPLES)


def test_a_folder_that_exists_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("precious")

    with pytest.raises(FolderError, match="exists, and a report is never overwritten"):
        RunFolder.made(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]


def test_a_folder_where_none_can_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FolderError, match="Not a directory"):
        RunFolder.made(tmp_path / "file" / "run")


def test_no_prompt_and_no_secret_is_in_the_folder(tmp_path: Path) -> None:
    folder = RunFolder.made(tmp_path / "run")
    list(folder.keeping(SAMPLES))

    folder.write(report(SAMPLES))

    row = json.loads((folder.path / "samples.jsonl").read_text().splitlines()[0])
    assert not {"body", "prompt", "messages"} & set(row)
    assert row["answer"] == ""


def test_a_full_disk_keeps_what_the_load_generators_wrote_and_all_samples_pass(tmp_path: Path) -> None:
    folder = RunFolder.made(tmp_path / "run")
    spooled(folder)

    with room_for(2000):
        kept = list(folder.keeping(iter(SAMPLES)))
    folder.tidy()

    assert kept == SAMPLES
    assert len(folder.troubles) == 1
    assert "as the load generators wrote them" in folder.troubles[0]
    assert not (folder.path / "samples.jsonl").exists()
    assert list(samples_of(folder.path)) == SAMPLES


def test_each_file_that_can_not_be_written_is_named_and_the_others_are(tmp_path: Path) -> None:
    folder = RunFolder.made(tmp_path / "run")

    with room_for(1500):
        folder.write(report(SAMPLES))

    named = {trouble.split(":")[0].rsplit("/", 1)[1] for trouble in folder.troubles}
    assert {"summary.json", "report.html"} <= named
    assert json.loads((folder.path / "meta.json").read_text())["load"] == "10/s poisson"


def test_a_run_that_was_not_leaves_no_folder_but_samples_are_never_removed(tmp_path: Path) -> None:
    empty, full = RunFolder.made(tmp_path / "empty"), RunFolder.made(tmp_path / "full")
    spooled(full)

    empty.forget()
    full.forget()

    assert not empty.path.exists()
    assert list(samples_of(full.path)) == SAMPLES


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"no run: it has no summary\.json"):
        read_run(tmp_path)


def test_a_summary_of_another_shape_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "meta.json").write_text("{}")

    with pytest.raises(FolderError, match=r"meta\.json: Object missing required field"):
        read_run(tmp_path)


def test_parquet_without_its_library_is_an_error_before_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(MissingLibraryError, match="pyarrow") as told:
        RunFolder.made(tmp_path / "run", RowsFormat.PARQUET)

    assert "pip install" in told.value.hint
    assert not (tmp_path / "run").exists()


def test_the_time_to_the_first_token_is_split_as_a_gateway_tells_it() -> None:
    attributing = Attributing()
    told = {"auth": 1.0, "queue": 20.0, "connect": 4.0, "first_token": 150.0}
    samples = [
        answer(
            number, ttft_s=0.2, sent_s=0.03, connect_s=0.01, server_timing_ms=told, replica=f"r{number % 2}"
        )
        for number in range(10)
    ]

    result = list(attributing.passing(samples)) and attributing.result()

    assert {part.name: round(part.mean_s, 6) for part in result.parts} == {
        "client": 0.02,
        "connecting": 0.01,
        "gateway: auth": 0.001,
        "gateway: queue": 0.02,
        "gateway: connect": 0.004,
        "engine": 0.125,
        "network": 0.02,
    }
    assert sum(part.mean_s for part in result.parts) == pytest.approx(0.2)
    assert [(one.name, one.requests, one.failed) for one in result.replicas] == [("r0", 5, 0), ("r1", 5, 0)]


def test_another_servers_timing_is_told_by_its_own_names_and_not_added_up() -> None:
    attributing = Attributing()

    attributing.add(answer(server_timing_ms={"total": 90.0}))

    assert [part.name for part in attributing.result().parts] == ["client", "connecting", "server: total"]
