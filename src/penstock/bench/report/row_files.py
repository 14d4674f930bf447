"""Single requests on the disk: JSON lines, or Parquet where pyarrow is installed. Written one by one, read one by one.

Both have the members of `Sample`, by their names.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import msgspec

from penstock.bench.load.spool import read_spool
from penstock.bench.sample import Sample
from penstock.core.errors import PenstockError

JSONL_SUFFIX, PARQUET_SUFFIX = ".jsonl", ".parquet"
_BUFFER_BYTES = 256 * 1024
# A group of rows is held in memory until it is written: with 1,000 chunks each, some 40 MB.
ROW_GROUP_LEN = 4096

_encode_into = msgspec.json.Encoder().encode_into


class MissingLibraryError(PenstockError):
    """A library that is not installed by default is needed."""

    code = "missing_library"


class RowsWriter(Protocol):
    """A file of rows that is being written; all but `abandon` may raise OSError."""

    def write(self, sample: Sample) -> None:
        """Adds a row."""

    def close(self) -> None:
        """Writes what is left, and closes the file."""

    def abandon(self) -> None:
        """Removes the file."""


def rows_writer(path: Path) -> RowsWriter:
    """A new file; its suffix is its format.

    Raises:
        MissingLibraryError: it is Parquet, and pyarrow is not installed.
        OSError: it can't be made.
    """
    return ParquetRows(path) if path.suffix == PARQUET_SUFFIX else JsonlRows(path)


def read_rows(path: Path) -> Iterator[Sample]:
    """The samples of a file; see `rows_writer`.

    Raises:
        MissingLibraryError: it is Parquet, and pyarrow is not installed.
        PenstockError: it is no file of samples.
        OSError: it can't be read.
    """
    return _read_parquet(path) if path.suffix == PARQUET_SUFFIX else read_spool(path)


class JsonlRows:
    """JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = bytearray()
        self._file = path.open("xb", buffering=0)

    def write(self, sample: Sample) -> None:
        """Adds a row."""
        _encode_into(sample, self._buffer, len(self._buffer))
        self._buffer += b"\n"
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def close(self) -> None:
        """Writes what is left, and closes the file."""
        self._flush()
        self._file.close()

    def abandon(self) -> None:
        """Removes the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        while self._buffer:
            del self._buffer[: self._file.write(self._buffer)]


class ParquetRows:
    """Parquet, in groups of `ROW_GROUP_LEN`."""

    def __init__(self, path: Path) -> None:
        self._arrow, parquet = pyarrow()
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._schema = _schema(self._arrow)
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, sample: Sample) -> None:
        """Adds a row."""
        row = msgspec.structs.asdict(sample)
        row["cause"] = str(sample.cause)
        row["server_timing_ms"] = list(sample.server_timing_ms.items())
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP_LEN:
            self._flush()

    def close(self) -> None:
        """Writes what is left, and closes the file."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Removes the file."""
        with suppress(OSError):  # closing writes, and it is for a failed write that it is abandoned
            self._writer.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def pyarrow() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise MissingLibraryError(
            "Parquet needs pyarrow, which is not installed", hint="pip install pyarrow, or keep rows as jsonl"
        ) from None


def _schema(arrow: Any) -> Any:
    plain = {int: arrow.int64(), float: arrow.float64(), str: arrow.string(), bool: arrow.bool_()}

    def arrow_type(hint: Any) -> Any:
        if get_origin(hint) is list:
            return arrow.list_(arrow_type(get_args(hint)[0]))
        if get_origin(hint) is dict:
            return arrow.map_(*(arrow_type(each) for each in get_args(hint)))
        if isinstance(hint, types.UnionType):
            return arrow_type(next(each for each in get_args(hint) if each is not types.NoneType))
        return plain.get(hint, arrow.string())

    return arrow.schema([(name, arrow_type(hint)) for name, hint in get_type_hints(Sample).items()])


def _read_parquet(path: Path) -> Iterator[Sample]:
    _, parquet = pyarrow()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP_LEN):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                yield msgspec.convert(row, Sample)
