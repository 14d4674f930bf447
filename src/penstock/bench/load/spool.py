"""Samples on the disk: one file of JSON lines for each load generator, written as requests end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from penstock.bench.sample import Sample
from penstock.core.errors import PenstockError

# Written out in pieces of this size, and whenever progress is told.
_BUFFER_BYTES = 256 * 1024

_encode_into = msgspec.json.Encoder().encode_into
_DECODER = msgspec.json.Decoder(Sample)


class SpoolError(PenstockError):
    """Samples could not be written; those that were are kept."""

    code = "spool_unwritable"


def spool_path(folder: Path, process: int) -> Path:
    """Where the load generator number `process` puts its samples."""
    return folder / f"samples-{process}.jsonl"


class SpoolWriter:
    """Appends samples to a new file.

    Raises:
        SpoolError: it can't be written, by any of the methods but `close`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._failed: SpoolError | None = None
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError:
            raise SpoolError(f"{path}: it exists already", hint="give the run a folder of its own") from None
        except OSError as error:
            raise self._error(error) from None

    def write(self, sample: Sample) -> None:
        """Adds a sample."""
        begin = len(self._buffer)
        _encode_into(sample, self._buffer, begin)
        self._buffer += b"\n"
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands to the system what is buffered."""
        if self._file is None:
            self._buffer.clear()
            if self._failed is not None:
                raise self._failed  # whoever asks later must hear of it too
            return
        try:
            while self._buffer:
                written = self._file.write(self._buffer)
                del self._buffer[:written]
        except OSError as error:
            self.close()
            self._failed = self._error(error)
            raise self._failed from None

    def close(self) -> None:
        """Closes the file; what is still buffered is lost, and what comes is dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _error(self, error: OSError) -> SpoolError:
        return SpoolError(
            f"{self._path}: {error.strerror or error}; the samples written so far are kept",
            hint="make room on that disk, or have the run written to another one",
        )


def read_spool(path: Path) -> Iterator[Sample]:
    """The samples of a file, one by one; a last line that was cut short by a full disk or a kill is left out.

    Raises:
        SpoolError: a line is no sample.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _DECODER.decode(line)
            except msgspec.DecodeError as error:
                raise SpoolError(f"{path}:{number}: no sample: {error}") from None
