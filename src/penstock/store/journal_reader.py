"""Reading the usage journal: the lines of a file in batches, and which files are finished.

A file may be torn anywhere by a power cut or a full disk: every whole line in it is found, and the rest counted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.store.journal import SUFFIX
from penstock.store.journal_line import LINE_BYTES_MAX, Line, decode_line, salvage_line

# Some hundred requests: one transaction of the ledger, which others wait for.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of one piece of a file.

    Args:
        torn: what is no line, counted by lines.
        offset: where the next piece begins.
    """

    lines: tuple[Line, ...]
    torn: int
    offset: int


def segment_names(folder: Path) -> tuple[str, ...]:
    """The files of the journal, oldest first; none where there is no such folder.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        return tuple(sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIX)))
    except FileNotFoundError:
        return ()


def is_finished(path: Path) -> bool:
    """Whether nobody will write to the file any more.

    A writer holds a file before its first byte; so one that has bytes and is not held was let go.

    Raises:
        OSError: the file can't be read.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        if not os.fstat(fd).st_size:
            return False
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def remove_empty(path: Path, before: float) -> None:
    """Removes a file that nobody holds and nobody has written to, where it was made before that time.

    Raises:
        OSError: it can't be read or removed.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        stat = os.fstat(fd)
        if not stat.st_size and stat.st_mtime < before:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def batches(path: Path, offset: int, *, finished: bool) -> Iterator[Batch]:
    """The lines of the file from `offset` on.

    Args:
        finished: nobody writes to it, so that its last line is whole even without a newline.

    Raises:
        OSError: the file can't be read.
    """
    fd = os.open(path, os.O_RDONLY)
    endless = False  # the last piece had no newline
    try:
        while data := os.pread(fd, CHUNK_BYTES, offset):
            end = data.rfind(b"\n") + 1
            if end:
                lines, torn = _read(data[:end])
            elif len(data) == CHUNK_BYTES:  # keep as much as a whole line at its end could be
                end = CHUNK_BYTES - LINE_BYTES_MAX
                lines, torn = (), 1
            elif finished:
                end = len(data)
                lines, torn = _read(data)
            else:
                return
            offset += end
            yield Batch(lines, max(0, torn - 1) if endless else torn, offset)
            endless = data[end - 1 : end] != b"\n"
    finally:
        os.close(fd)


def _read(data: bytes) -> tuple[tuple[Line, ...], int]:
    lines: list[Line] = []
    torn = 0
    for raw in data.split(b"\n"):
        if not raw:
            continue
        line = decode_line(raw)
        if line is None:
            torn += 1
            line = salvage_line(raw)
        if line is not None:
            lines.append(line)
    return tuple(lines), torn
