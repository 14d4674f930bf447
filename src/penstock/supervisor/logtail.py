"""Reading the logs of parts: their end, what came since a time, and what comes; across files that are turned over."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
    """A reader of one log.

    Args:
        name: what its lines are called by.
        log: the file that is written; it may not be there yet.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self._log = log
        self._inode = 0
        self._offset = 0
        self._begun = b""

    def so_far(self, lines_max: int | None, since: float) -> list[Line]:
        """The last lines, none written before `since`; what comes after them is for `fresh`.

        Args:
            lines_max: None for all.
            since: Unix time; 0 for any.
        """
        pieces: list[list[Line]] = []
        count = 0
        for number, path in enumerate(files_of(self._log)):
            lines, complete = self._whole(path, since, is_newest=number == 0)
            pieces.append(lines)
            count += len(lines)
            if not complete or (lines_max is not None and count >= lines_max):
                break
        found = [line for piece in reversed(pieces) for line in piece]
        return found if lines_max is None else found[len(found) - min(lines_max, len(found)) :]

    def fresh(self) -> list[Line]:
        """The whole lines that have come since the last look."""
        lines: list[Line] = []
        for path in self._behind():
            with suppress(OSError), path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._inode, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                times = _Times(path)
                while data := file.read(READ_BYTES_MAX):
                    lines += self._lines(data, times)
                    self._offset += len(data)
        return lines

    def _behind(self) -> Iterator[Path]:
        """The files from the one that was read last to the newest."""
        files = files_of(self._log)
        numbers = [number for number, path in enumerate(files) if _inode(path) == self._inode]
        yield from reversed(files[: numbers[0] + 1] if numbers else files)

    def _lines(self, data: bytes, times: _Times) -> Iterator[Line]:
        at = times.at(self._offset)
        whole, _, rest = (self._begun + data).rpartition(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            whole, rest = (whole + b"\n" + rest).removeprefix(b"\n"), b""
        self._begun = rest
        if whole:
            yield from (Line(at, self.name, _text(line)) for line in whole.split(b"\n"))

    def _whole(self, path: Path, since: float, *, is_newest: bool) -> tuple[list[Line], bool]:
        """The lines of a file that were written since then, and whether those are all of its lines."""
        times = _Times(path)
        first = times.offset(since)
        try:
            with path.open("rb") as file:
                begin = file.seek(*((0, os.SEEK_END) if first is None else (first, os.SEEK_SET)))
                data = file.read()
                if is_newest:
                    self._inode, self._offset = os.fstat(file.fileno()).st_ino, begin + len(data)
        except OSError:
            return [], True
        if is_newest:
            data, newline, self._begun = data.rpartition(b"\n")
            data += newline
        lines, offset = [], begin
        for line in data.splitlines(keepends=True):
            lines.append(Line(times.at(offset), self.name, _text(line.rstrip(b"\r\n"))))
            offset += len(line)
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
    return line.decode("utf-8", "replace")
