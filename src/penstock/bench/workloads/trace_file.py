"""Files from outside, read line by line or value by value: bounded, and every complaint with its place."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from penstock.bench.workloads.lengths import WorkloadError

# A row of Penstock's own with the times of 30,000 chunks, or a Mooncake row of a context of ten million tokens.
LINE_BYTES_MAX = 1024 * 1024
# A conversation of ShareGPT; the longest known one has 2 MB.
VALUE_CHARS_MAX = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_BETWEEN = " \t\r\n,"


class TraceError(WorkloadError):
    """A trace that can't be read."""

    code = "trace"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where it is gzip, from after a byte order mark on.

    Raises:
        TraceError: it can't be read, also later on, amid its reading.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            yield file  # type: ignore[misc]  # GzipFile reads as a BinaryIO does
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise TraceError(f"{path}: {why}", hint="name a file that can be read") from None


def lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Number, text and wholeness of each line that is not blank; the last one is not whole where its end is missing.

    Raises:
        TraceError: the file can't be read, a line is too long, or it is no UTF-8.
    """
    with opened(path) as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise TraceError(
                    f"{path}:{number}: a line of more than {LINE_BYTES_MAX} bytes",
                    hint="is it a trace at all?",
                )
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise TraceError(f"{path}:{number}: no UTF-8", hint="is it a trace at all?") from None
            if text:
                yield number, text, line.endswith(b"\n")


def values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON array, or of JSON values one after the other, each with its number from 1.

    A file of a gigabyte needs the memory of its longest value only.

    Raises:
        TraceError: the file can't be read, or a value is no JSON, or too long.
    """
    decoder = json.JSONDecoder()
    with opened(path) as file:
        reader = _Text(path, file)
        reader.skip(_BETWEEN)
        if reader.head == "[":
            reader.at += 1
        number = 0
        while True:
            reader.skip(_BETWEEN)
            if reader.head in ("", "]"):
                return
            number += 1
            yield number, reader.value(decoder, number)


class _Text:
    """A text that is read as far as it is needed."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._rest = b""
        self._ended = False
        self._text = ""
        self.at = 0

    @property
    def head(self) -> str:
        """The next character; empty at the end."""
        return self._text[self.at : self.at + 1]

    def skip(self, characters: str) -> None:
        """Goes on to the next character that is none of these."""
        while True:
            while self.head and self.head in characters:
                self.at += 1
            if self.head or not self._more():
                return

    def value(self, decoder: json.JSONDecoder, number: int) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, self.at = decoder.raw_decode(self._text, self.at)
            except (json.JSONDecodeError, RecursionError) as error:
                grown = len(self._text) - self.at
                if grown > VALUE_CHARS_MAX or not self._more(grown):
                    why = getattr(error, "msg", "nested too deeply")
                    raise TraceError(f"{self._path}: entry {number}: {why}", hint=_JSON_HINT) from None
            else:
                return value

    def _more(self, least: int = 0) -> bool:
        """Reads at least as much again, so that a long value is not tried too often; False at the end."""
        if self._ended:
            return False
        data = self._rest + self._file.read(max(_CHUNK_BYTES, least))
        self._ended = len(data) == len(self._rest)
        cut = data if self._ended else data[: len(data) - _split_bytes(data)]
        self._rest = data[len(cut) :]
        try:
            self._text = self._text[self.at :] + cut.decode("utf-8")
        except UnicodeDecodeError:
            raise TraceError(f"{self._path}: no UTF-8", hint="is it a trace at all?") from None
        self.at = 0
        return True


_JSON_HINT = 'ShareGPT is a JSON array of {"conversations": [{"from": "human", "value": "..."}]}'


def _split_bytes(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            return back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
        if byte < 0x80:
            return 0
    return 0
