"""Samples on the disk: written as they come, read one by one, and kept when the disk is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.bench.load.spool import SpoolError, SpoolWriter, read_spool
from penstock.bench.sample import Cause, Sample


def sample(index: int = 0) -> Sample:
    return Sample(
        index=index,
        kind="k",
        stage=0,
        scheduled_s=0.1,
        chunk_s=[0.2, 0.30000001],
        cause=Cause.RESET,
        answer="\u00fc",
    )


@contextmanager
def room_for(file_bytes: int) -> Iterator[None]:
    """No file may grow further than this, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "s")

    for index in range(3):
        writer.write(sample(index))
    writer.flush()
    writer.close()

    assert list(read_spool(tmp_path / "s")) == [sample(0), sample(1), sample(2)]


def test_samples_are_on_the_disk_before_many_of_them_are_in_memory(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "s")

    for index in range(2000):
        writer.write(sample(index))
    writer.close()

    assert len(list(read_spool(tmp_path / "s"))) > 500


def test_a_full_disk_is_told_and_what_was_written_is_kept(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "s")
    for index in range(10):
        writer.write(sample(index))

    with room_for(1000), pytest.raises(SpoolError, match="written so far are kept") as told:
        writer.flush()

    assert "make room" in told.value.hint
    writer.write(sample())
    with pytest.raises(SpoolError, match="written so far are kept"):
        writer.flush()  # whoever asks later hears of it too
    kept = list(read_spool(tmp_path / "s"))
    assert [kept_one.index for kept_one in kept] == list(range(len(kept)))
    assert kept


def test_a_file_that_exists_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")

    with pytest.raises(SpoolError, match="exists already"):
        SpoolWriter(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="No such file"):
        SpoolWriter(tmp_path / "nowhere" / "s")


def test_a_line_that_is_no_sample_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").write_text('{"x":1}\n')

    with pytest.raises(SpoolError, match=":1: no sample"):
        list(read_spool(tmp_path / "s"))
