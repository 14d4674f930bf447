"""The log files of children: appended to, turned over at a start when they are large."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from penstock.store.home import FILE_MODE

LOG_BYTES_MAX = 10 * 1024 * 1024
LOGS_KEPT = 3
LAST_BYTES = 4096  # enough for a traceback's end


def open_log(path: Path) -> tuple[BinaryIO, int]:
    """The log at `path`, ready to append to, and its size now; a large one is moved to `path.1` first."""
    _turn_over(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
    return os.fdopen(fd, "ab"), os.fstat(fd).st_size


def read_from(path: Path, start: int, bytes_max: int) -> str:
    """The last `bytes_max` bytes written to the log since it had `start` bytes."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - bytes_max))
            return file.read(bytes_max).decode("utf-8", "replace")
    except OSError:
        return ""


def _turn_over(path: Path) -> None:
    if not path.exists() or path.stat().st_size <= LOG_BYTES_MAX:
        return
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, LOGS_KEPT + 1))]
    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
        if newer.exists():
            newer.replace(older)
