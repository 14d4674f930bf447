"""A run's folder: made before the load, filled while its samples are read, and read again for a report.

    summary.json     the figures; their schema is `result.schema()`
    meta.json        how they came about
    samples.jsonl    one line for each request, or samples.parquet; no prompts
    beside.json      what engines and gateway told, where they were read
    power.json       what the GPUs told, and cost.json what it cost
    attribution.json where the time to the first token went, where a gateway told
    report.html report.md

A folder that exists is never written to. Where the disk becomes full, what the load generators wrote is kept as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.bench.analysis.attribution import Attribution
from penstock.bench.analysis.result import Summary
from penstock.bench.beside.energy import Cost
from penstock.bench.beside.pages import Readings
from penstock.bench.beside.power import PowerReadings
from penstock.bench.report.facts import Meta, Report
from penstock.bench.report.html_page import report_html
from penstock.bench.report.markdown import report_markdown
from penstock.bench.report.picks import Pick, Picks
from penstock.bench.report.row_files import (
    JSONL_SUFFIX,
    PARQUET_SUFFIX,
    RowsWriter,
    pyarrow,
    read_rows,
    rows_writer,
)
from penstock.bench.sample import Sample
from penstock.core.errors import PenstockError

SUMMARY, META, BESIDE, POWER = "summary.json", "meta.json", "beside.json", "power.json"
COST, ATTRIBUTION = "cost.json", "attribution.json"
HTML, MARKDOWN = "report.html", "report.md"
ROWS, SPOOL = "samples", "spool"

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class FolderError(PenstockError):
    """A run's folder can't be made, written or read."""

    code = "bench_folder"


class RowsFormat(StrEnum):
    """How single requests are kept."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    NONE = "none"


_SUFFIXES = {RowsFormat.JSONL: JSONL_SUFFIX, RowsFormat.PARQUET: PARQUET_SUFFIX}


@dataclass(slots=True)
class RunFolder:
    """The folder of one run.

    Args:
        path: the folder.
        rows: how single requests are kept.
        troubles: what could not be written, in sentences.
    """

    path: Path
    rows: RowsFormat = RowsFormat.JSONL
    troubles: list[str] = field(default_factory=list)

    @classmethod
    def made(cls, path: Path, rows: RowsFormat = RowsFormat.JSONL) -> RunFolder:
        """A new folder.

        Raises:
            FolderError: it exists or can't be made.
            MissingLibraryError: its rows are to be Parquet, and pyarrow is not installed.
        """
        if rows is RowsFormat.PARQUET:
            pyarrow()
        make_folder(path)
        return cls(path, rows)

    @property
    def spool(self) -> Path:
        """Where the load generators write."""
        return self.path / SPOOL

    @property
    def rows_name(self) -> str:
        """The file of single requests; empty where none is kept."""
        return f"{ROWS}{_SUFFIXES[self.rows]}" if self.rows in _SUFFIXES else ""

    def keeping(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples, each written to the file of rows as it passes.

        A disk that is full ends the writing, not the reading: the spool has all of them.
        """
        writer = self._begun() if self.rows_name else None
        for sample in samples:
            if writer is not None and not self._tried(writer, lambda to, row=sample: to.write(row)):  # type: ignore[misc]  # a default binds the row
                writer = None
            yield sample
        if writer is not None:
            self._tried(writer, lambda to: to.close())

    def tidy(self) -> None:
        """Removes what the load generators wrote, once it was read; nothing where its rows could not be kept."""
        if not self.troubles:
            shutil.rmtree(self.spool, ignore_errors=True)

    def forget(self) -> None:
        """Removes the folder of a run that was not, but never one that has samples."""
        if not any(path.stat().st_size for path in self.spool.glob(f"*{JSONL_SUFFIX}")):
            shutil.rmtree(self.path, ignore_errors=True)

    def write(self, report: Report) -> None:
        """All files but the rows. What can't be written is told in `troubles`, and the others are tried."""
        parts: dict[str, msgspec.Struct | None] = {
            SUMMARY: report.summary,
            META: report.meta,
            BESIDE: report.readings,
            POWER: report.power,
            COST: report.cost,
            ATTRIBUTION: report.attribution,
        }
        contents = {name: as_json(part) for name, part in parts.items() if part is not None}
        contents[MARKDOWN] = report_markdown(report).encode()
        contents[HTML] = report_html(report).encode()
        for name, content in contents.items():
            try:
                (self.path / name).write_bytes(content)
            except OSError as error:
                self.troubles.append(f"{self.path / name}: {error.strerror or error}")

    def _begun(self) -> RowsWriter | None:
        try:
            return rows_writer(self.path / self.rows_name)
        except OSError as error:
            self._lost(error)
            return None

    def _tried(self, writer: RowsWriter, act: Callable[[RowsWriter], None]) -> bool:
        try:
            act(writer)
        except OSError as error:
            self._lost(error)
            writer.abandon()
            return False
        return True

    def _lost(self, error: OSError) -> None:
        self.troubles.append(
            f"{self.path / self.rows_name}: {error.strerror or error}; requests are kept as the load generators "
            f"wrote them, in {self.spool}"
        )


def make_folder(path: Path) -> None:
    """Makes a folder that was not there.

    Raises:
        FolderError: it exists, or can't be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise FolderError(
            f"{path} exists, and a report is never overwritten", hint="name another --output, or remove it"
        ) from None
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror or error}", hint="name another --output") from None


def read_run(path: Path) -> Report:
    """The run in a folder.

    Raises:
        FolderError: there is none, or a file of it can't be read.
    """
    if not (path / SUMMARY).is_file():
        hint = "is it a sweep? name one of the folders in it" if (path / "sweep.json").is_file() else ""
        raise FolderError(f"{path}: no run: it has no {SUMMARY}", hint=hint or "name a folder of `bench run`")
    meta = _read(path / META, Meta)
    return Report(
        meta=meta,
        summary=_read(path / SUMMARY, Summary),
        readings=_maybe(path / BESIDE, Readings),
        power=_maybe(path / POWER, PowerReadings),
        cost=_maybe(path / COST, Cost),
        picks=_picks(path),
        attribution=_maybe(path / ATTRIBUTION, Attribution),
    )


def samples_of(path: Path) -> Iterator[Sample]:
    """The single requests of a run's folder; none where they were not kept.

    Raises:
        PenstockError: their file can't be read.
    """
    for suffix in (JSONL_SUFFIX, PARQUET_SUFFIX):
        rows = path / f"{ROWS}{suffix}"
        if rows.is_file():
            return read_rows(rows)
    spools = sorted((path / SPOOL).glob(f"*{JSONL_SUFFIX}"))
    return (sample for spool in spools for sample in read_rows(spool))


def as_json(part: msgspec.Struct) -> bytes:
    """A file's content: JSON, for people too."""
    return msgspec.json.format(msgspec.json.encode(part), indent=1) + b"\n"


def _picks(path: Path) -> list[Pick]:
    picks = Picks()
    for sample in samples_of(path):
        picks.add(sample)
    return picks.all()


def _maybe(path: Path, of: type[_Struct]) -> _Struct | None:
    return _read(path, of) if path.is_file() else None


def _read(path: Path, of: type[_Struct]) -> _Struct:
    try:
        return msgspec.json.decode(path.read_bytes(), type=of)
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise FolderError(f"{path}: {error}", hint="was it written by another version of Penstock?") from None
