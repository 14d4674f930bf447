"""Reading the logs of parts: their end, what came since a time, and what comes; across files that are turned over."""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from penstock.supervisor.logfile import STAMP, TIME_EVERY_S, files_of, times_of

READ_BYTES_MAX = 1 << 20
LINE_BYTES_MAX = 64 * 1024  # a longer line is shown in pieces


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log; `at` is the Unix time at which it was written, to a second, and 0 where nobody noted it."""

    at: float
    name: str
    text: str


class LogTail:
    """A reader of one log, which it keeps open: so no other file can be taken for the one that it has read.

    Args:
        name: what its lines are called by.
        log: the file that is written; it may not be there yet.
        now: Unix time.
    """

    def __init__(self, name: str, log: Path, now: Callable[[], float] = time.time) -> None:
        self.name = name
        self._log = log
        self._now = now
        self._file: BinaryIO | None = None
        self._begun = b""

    def so_far(self, lines_max: int | None, since: float) -> list[Line]:
        """The last lines, none written before `since`; what comes after them is for `fresh`.

        Args:
            lines_max: None for all.
            since: Unix time; 0 for any.
        """
        found: list[Line] = []
        for path in files_of(self._log):
            lines, is_all = self._whole(path, since)
            found = lines + found
            if not is_all or (lines_max is not None and len(found) >= lines_max):
                break
        return found if lines_max is None else found[len(found) - min(lines_max, len(found)) :]

    def fresh(self) -> list[Line]:
        """The whole lines that have come since the last look."""
        lines = list(self._read_on())
        for path in self._newer():
            with suppress(OSError):  # turned over meanwhile: it is found by its next name
                self._keep_open(path.open("rb"))
                lines += self._read_on()
        return lines

    def close(self) -> None:
        """Reads no more."""
        if self._file is not None:
            self._file.close()

    def _newer(self) -> Iterator[Path]:
        """The files that were begun after the one that is open, oldest first."""
        files = files_of(self._log)
        inode = os.fstat(self._file.fileno()).st_ino if self._file else 0
        at = next((number for number, path in enumerate(files) if _inode(path) == inode), len(files))
        return reversed(files[:at])

    def _keep_open(self, file: BinaryIO) -> None:
        self.close()
        self._file = file

    def _read_on(self) -> Iterator[Line]:
        while self._file and (data := self._file.read(READ_BYTES_MAX)):
            whole, newline, self._begun = (self._begun + data).rpartition(b"\n")
            if len(self._begun) > LINE_BYTES_MAX:
                whole, newline, self._begun = whole + newline + self._begun, b"\n", b""
            if newline:
                yield from (Line(self._now(), self.name, _text(line)) for line in whole.split(b"\n"))

    def _whole(self, path: Path, since: float) -> tuple[list[Line], bool]:
        """The lines of a file that were written since then, and whether those are all of its lines."""
        times = _Times(path)
        first = times.offset(since)
        try:
            file = path.open("rb")
        except OSError:
            return [], True
        begin = file.seek(*((0, os.SEEK_END) if first is None else (first, os.SEEK_SET)))
        data = file.read()
        if self._file is None:  # the newest
            self._keep_open(file)
            data, newline, self._begun = data.rpartition(b"\n")
        else:
            file.close()
            data, newline = data.removesuffix(b"\n"), data[-1:]
        lines, offset = [], begin
        for line in data.split(b"\n") if newline else ():
            lines.append(Line(times.at(offset), self.name, _text(line)))
            offset += len(line) + 1
        return lines, begin == 0


class _Times:
    """When what stands in a file was written."""

    def __init__(self, path: Path) -> None:
        data = b""
        with suppress(OSError):
            data = times_of(path).read_bytes()
        pairs = list(STAMP.iter_unpack(data[: len(data) - len(data) % STAMP.size]))
        self._times = [at for at, _ in pairs]
        self._offsets = [offset for _, offset in pairs]

    def at(self, offset: int) -> float:
        """The Unix time of what stands at an offset; 0 where it is not known."""
        index = bisect.bisect_right(self._offsets, offset) - 1
        return self._times[index] if index >= 0 else 0.0

    def offset(self, since: float) -> int | None:
        """Where what was written since then begins, rather a second too early; None where nothing was."""
        index = bisect.bisect_right(self._times, since - TIME_EVERY_S)
        if index == len(self._times) and self._times:
            return None
        return self._offsets[index] if index else 0


def _inode(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_ino
    return 0


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\r")
