"""A load generator's part of a plan, as a file that is written ahead of the load and read as it goes.

Each request is a frame: its length in four bytes, then msgpack. A frame of length 0 is the end of the plan. A
plan of hours need not be on the disk, or in memory, before the load begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from penstock.bench.plan import PlannedRequest

# How far a plan is written ahead, for each process: minutes of most loads, and no great share of a disk.
AHEAD_REQUESTS = 20_000
AHEAD_BYTES = 128 * 1024 * 1024
# As many bytes as are read at once; a longer request is read in several.
_READ_BYTES = 256 * 1024
_LENGTH_BYTES = 4

_encode = msgspec.msgpack.Encoder().encode
_DECODER = msgspec.msgpack.Decoder(PlannedRequest)


class PlanWriter:
    """Deals a plan out to several files; used as a context, which closes them.

    The turns of a session go to one file, and so does every n-th of the other requests.

    Args:
        ahead_requests, ahead_bytes: how far each file is written ahead of what was taken from it.
    """

    def __init__(
        self,
        plan: Iterator[PlannedRequest],
        paths: Sequence[Path],
        *,
        ahead_requests: int = AHEAD_REQUESTS,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._ahead_requests = ahead_requests
        self._ahead_bytes = ahead_bytes
        self._plan: Iterator[PlannedRequest] | None = plan
        self._files: list[BinaryIO] = [path.open("wb") for path in paths]
        self._written = [0] * len(paths)
        self._written_bytes = [0] * len(paths)

    @property
    def complete(self) -> bool:
        """Whether the whole plan is written."""
        return self._plan is None

    def write_ahead(self, taken: Sequence[int]) -> None:
        """Writes until every file is well ahead of what its process has taken so far, or the plan ends.

        Raises:
            OSError: the files can't be written.
            Exception: whatever the plan raises.
        """
        while self._plan is not None and not self._is_ahead(taken):
            planned = next(self._plan, None)
            if planned is None:
                self._plan = None
                for file in self._files:
                    file.write(b"\0" * _LENGTH_BYTES)
            else:
                self._write(planned)
        for file in self._files:
            file.flush()

    def _is_ahead(self, taken: Sequence[int]) -> bool:
        """By count in the file that is least ahead; by size in all together."""
        ahead = [written - took for written, took in zip(self._written, taken, strict=True)]
        ahead_bytes = sum(
            size * count / written
            for size, count, written in zip(self._written_bytes, ahead, self._written, strict=True)
            if written
        )
        return min(ahead) >= self._ahead_requests or ahead_bytes >= self._ahead_bytes * len(self._files)

    def _write(self, planned: PlannedRequest) -> None:
        number = planned.session if planned.session >= 0 else planned.index
        number %= len(self._files)
        frame = _encode(planned)
        self._files[number].write(len(frame).to_bytes(_LENGTH_BYTES, "little"))
        self._files[number].write(frame)
        self._written[number] += 1
        self._written_bytes[number] += len(frame)

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files."""
        for file in self._files:
            with suppress(OSError):  # a full disk was told of when it was written to
                file.close()


class PlanReader:
    """Reads one file of a plan, which may still be growing."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._buffer = bytearray()
        self._at = 0
        self._next: PlannedRequest | None = None
        self.ended = False

    def take(self) -> PlannedRequest | None:
        """The next request; None where there is none yet, or, once `ended` is true, ever."""
        planned, self._next = self.peek(), None
        return planned

    def peek(self) -> PlannedRequest | None:
        """What `take` would return."""
        if self._next is None:
            self._next = self._read()
        return self._next

    def _read(self) -> PlannedRequest | None:
        if self.ended or not self._have(_LENGTH_BYTES):
            return None
        size = int.from_bytes(self._buffer[self._at : self._at + _LENGTH_BYTES], "little")
        if size == 0:
            self.ended = True
            return None
        if not self._have(_LENGTH_BYTES + size):
            return None
        begin = self._at + _LENGTH_BYTES
        self._at = begin + size
        return _DECODER.decode(self._buffer[begin : self._at])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _have(self, size: int) -> bool:
        """Whether `size` more bytes are there, after reading what is wanted."""
        while len(self._buffer) - self._at < size:
            if self._at:
                del self._buffer[: self._at]
                self._at = 0
            data = self._file.read(_READ_BYTES)
            if not data:
                return False
            self._buffer += data
        return True
