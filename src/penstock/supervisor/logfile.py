"""The log of a part on disk: bounded files, turned over between lines, with the times of what they hold beside them.

`NAME.log` is written; `NAME.log.1` is older than it, and so on. Beside each lies `.times`: pairs of a Unix time and
the offset of what was written from then on, one each second in which something was.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from penstock.store.home import FILE_MODE, FOLDER_MODE

LOG_BYTES_MAX = 10 * 1024 * 1024
LOGS_KEPT = 4  # beside the one that is written
TIME_EVERY_S = 1.0
STAMP = struct.Struct("<dQ")
MARK = "---"
STARTED = "started pid"


class LogFile:
    """A log that is appended to; writing never raises: what has no room is counted, and said once.

    Args:
        bytes_max: of one file, which a last line may exceed.
        kept: older files beside it.
        now: Unix time.
        on_trouble: told, in a sentence, when something could not be written for the first time since all was well.
    """

    def __init__(
        self,
        path: Path,
        bytes_max: int = LOG_BYTES_MAX,
        kept: int = LOGS_KEPT,
        now: Callable[[], float] = time.time,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = path
        self.written_bytes = 0
        self.lost_lines = 0
        self._bytes_max = bytes_max
        self._kept = kept
        self._now = now
        self._on_trouble = on_trouble
        self._unwritten_lines = 0
        self._is_line_begun = False
        self._stamped_at = 0.0
        self._open()

    def append(self, data: bytes) -> None:
        """Writes the data, in as many files as it takes."""
        while data:
            self._stamp()
            end = self._end_of_file(data)
            if end:
                self._write(data[:end])
                data = data[end:]
            if data:
                self._turn_over()

    def mark(self, words: str) -> None:
        """Writes a line of our own, with the time."""
        at = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        begin = "\n" if self._is_line_begun else ""
        self.append(f"{begin}{MARK} {at} {words}\n".encode(errors="replace"))

    def close(self) -> None:
        """Writes no more."""
        os.close(self._fd)
        os.close(self._times_fd)

    def _end_of_file(self, data: bytes) -> int:
        """How much of the data still goes into this file: whole lines, at least the one that is begun."""
        room = self._bytes_max - self._size
        if len(data) <= room:
            return len(data)
        fits = data.rfind(b"\n", 0, max(room, 0)) + 1
        if fits or (self._size and not self._is_line_begun):
            return fits
        line_end = data.find(b"\n") + 1
        if line_end:
            return line_end
        return len(data) if self._size < 2 * self._bytes_max else 0  # a line without an end is cut

    def _write(self, data: bytes) -> None:
        missing = self._unwritten_lines
        note = f"{MARK} {missing} lines are missing here: they could not be written\n" if missing else ""
        torn = b"\n" if missing and self._is_line_begun else b""
        whole = torn + note.encode() + data
        written = 0
        try:
            while written < len(whole):
                written += os.write(self._fd, memoryview(whole)[written:])
            self._unwritten_lines = 0
        except OSError as error:
            if not missing:
                self._on_trouble(f"{self.path} can't be written, lines are lost: {error.strerror}")
            lost = whole[max(written, len(whole) - len(data)) :]
            self._unwritten_lines += max(1, lost.count(b"\n"))
            self.lost_lines += max(1, lost.count(b"\n"))
        if written:
            self._is_line_begun = whole[written - 1 : written] != b"\n"
        self._size += written
        self.written_bytes += written

    def _stamp(self) -> None:
        now = self._now()
        if now - self._stamped_at < TIME_EVERY_S and now >= self._stamped_at:
            return
        self._stamped_at = now
        with suppress(OSError):
            if os.fstat(self._fd).st_nlink == 0:  # somebody has removed it
                self._reopen()
        with suppress(OSError):
            os.write(self._times_fd, STAMP.pack(now, self._size))

    def _open(self) -> None:
        self.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        fd = os.open(self.path, flags, FILE_MODE)
        try:
            self._times_fd = os.open(times_of(self.path), flags, FILE_MODE)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._stamped_at = 0.0

    def _reopen(self) -> None:
        fd, times_fd = self._fd, self._times_fd
        self._open()  # before the old ones are closed: where it fails, they are still ours
        os.close(fd)
        os.close(times_fd)

    def _turn_over(self) -> None:
        names = list(_names(self.path, self._kept))
        with suppress(OSError):
            for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                for old, new in ((older, newer), (times_of(older), times_of(newer))):
                    if new.exists():
                        new.replace(old)
        is_turned = not self.path.exists()
        with suppress(OSError):
            self._reopen()
            if is_turned:
                return
        self._size = 0  # it goes on in the old file, under whichever name that has


def times_of(log: Path) -> Path:
    """The times beside a log file."""
    return log.with_name(f"{log.name}.times")


def files_of(log: Path) -> tuple[Path, ...]:
    """The files of a log that are there, newest first."""
    return tuple(path for path in _names(log, LOGS_KEPT) if path.exists())


def read_last(log: Path, bytes_max: int) -> str:
    """The end of a log, across its files."""
    pieces: list[bytes] = []
    for path in files_of(log):
        if bytes_max <= 0:
            break
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
            pieces.append(file.read(bytes_max))
            bytes_max -= len(pieces[-1])
    return b"".join(reversed(pieces)).decode("utf-8", "replace")


def _names(log: Path, kept: int) -> Iterator[Path]:
    yield log
    for number in range(1, kept + 1):
        yield log.with_name(f"{log.name}.{number}")
