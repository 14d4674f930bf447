"""The usage journal's writer: two lines for each admitted request, each one system call.

A process writes files of its own, `journal/<UTC start>-<pid>-<n>.jsonl`, and holds each by `flock` for as long as
a request that began in it runs: a file that nobody holds says all there is to know. A line is in the kernel when
`begin` or `end` returns, and so survives `kill -9`; with `sync="always"` it is on the disk, and survives a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from penstock.core.errors import OverloadError
from penstock.core.record import RequestRecord
from penstock.policy.budget import COST_TOKENS_MAX
from penstock.policy.cost import Price
from penstock.store.home import FILE_MODE, FOLDER_MODE
from penstock.store.journal_line import Begin, End, encode_line, nano_usd

SUFFIX = ".jsonl"
SEGMENT_BYTES = 64 * 2**20
# Lines kept in memory while the disk can't be written: some ten megabytes at most, some seconds of a busy gateway.
KEPT_MAX = 20_000
# Kept lines that are written along with a new one: about a millisecond.
CATCH_UP_LINES = 256
RETRY_AFTER_S = 5
FREE = Price()

_CREATE_TRIES = 100

Sync = Literal["none", "always"]
OnFailure = Literal["serve", "refuse"]


class JournalError(OverloadError):
    """What is used can't be written down now."""

    code = "journal_unwritable"


@dataclass(slots=True, eq=False)
class _Segment:
    """A file of the journal: `open` counts the requests that began in it and have not ended."""

    path: Path
    fd: int
    size_bytes: int = 0
    torn: bool = False  # it does not end with a newline
    open: int = 0


class Entry(msgspec.Struct, eq=False):
    """An admitted request, from `Journal.begin` to `Journal.end`."""

    id: str
    reserved_tokens: int
    ended: bool = False
    segment: _Segment | None = None  # where its first line is


class _Kept(NamedTuple):
    entry: Entry
    line: bytes
    ends: bool


class Journal:
    """Writes the journal of one process, from one thread, and not across a fork.

    Args:
        folder: `Home.journal`; a file is made in it with the first line.
        now: seconds since the epoch.
        sync: `always` waits for the disk with each line, `none` leaves that to the kernel.
        on_failure: while lines can't be written, `serve` keeps them in memory, `refuse` raises.
        on_problem: told once when lines can no longer be written, once when some are dropped.
        on_recovered: told how many lines wait in memory when it works again.
        segment_bytes: the size at which another file is begun.
        kept_max: lines that are kept in memory at most.
    """

    def __init__(
        self,
        folder: Path,
        now: Callable[[], float],
        *,
        sync: Sync = "none",
        on_failure: OnFailure = "serve",
        on_problem: Callable[[JournalError], None] = lambda _: None,
        on_recovered: Callable[[int], None] = lambda _: None,
        segment_bytes: int = SEGMENT_BYTES,
        kept_max: int = KEPT_MAX,
    ) -> None:
        self._folder = folder
        self._now = now
        self._syncs = sync == "always"
        self._refuses = on_failure == "refuse"
        self._on_problem = on_problem
        self._on_recovered = on_recovered
        self._segment_bytes = self._full_bytes = segment_bytes
        self._kept_max = kept_max
        self._boot = secrets.token_hex(8)
        self._numbers = count(1)
        self._segment_numbers = count(1)
        self._segment: _Segment | None = None
        self._held: set[_Segment] = set()
        self._kept: dict[str, _Kept] = {}
        self._dropping = False
        self.failing = False
        self.dropped = 0
        self.lines = 0  # written

    @property
    def kept(self) -> int:
        """Lines that wait in memory for the disk."""
        return len(self._kept)

    def begin(self, record: RequestRecord, reserved_tokens: int) -> Entry:
        """Writes down that a request is admitted; to be called before an engine gets a byte of it.

        Args:
            record: its id, tenant, key, model, route and start are known.
            reserved_tokens: what it may use at most.

        Raises:
            JournalError: it can't be written, and `on_failure` is `refuse`.
        """
        entry = Entry(f"{self._boot}-{next(self._numbers):08x}", _count(reserved_tokens) or 0)
        line = Begin(
            entry.id,
            record.request_id,
            record.tenant,
            record.key_id,
            record.model,
            record.route,
            record.started_at,
            entry.reserved_tokens,
        )
        self._put(entry, encode_line(line), ends=False, keeps=not self._refuses)
        return entry

    def end(self, entry: Entry, record: RequestRecord, price: Price = FREE) -> None:
        """Writes down how a request ended, once; to be called before its client sees the end.

        Args:
            record: its status, outcome, usage and cost are final.
            price: by which its cost was reckoned.

        Raises:
            JournalError: it can't be written, and `on_failure` is `refuse`. The client must not see a good end;
                `ensure_end` then says how it ended instead.
        """
        self._end(entry, record, price, keeps=not self._refuses)

    def ensure_end(self, entry: Entry, record: RequestRecord, price: Price = FREE) -> None:
        """Like `end`, for when the client has seen what it has seen: a line that can't be written is kept.

        Does nothing for an entry that has ended.
        """
        self._end(entry, record, price, keeps=True)

    def tend(self) -> None:
        """Tries kept lines again, and notices a file that was removed; to be called each second or so."""
        try:
            self._catch_up()
            if self._segment is not None and not os.fstat(self._segment.fd).st_nlink:
                self._abandon()
                self._on_problem(JournalError(f"a file of {self._folder} was removed while in use"))
        except OSError as error:
            self._note_failure(error)

    def close(self) -> None:
        """Writes what is kept, and lets go of the files: entries that have not ended count as interrupted."""
        try:
            while self._kept:
                self._catch_up()
        except OSError as error:
            self._note_failure(error)
        for kept in list(self._kept.values()):
            self._drop(kept)
        self._kept.clear()
        for segment in self._held:
            os.close(segment.fd)
        self._held.clear()
        self._segment = None

    def _end(self, entry: Entry, record: RequestRecord, price: Price, *, keeps: bool) -> None:
        if entry.ended:
            return
        usage = record.usage
        line = End(
            entry.id,
            record.request_id,
            record.tenant,
            record.key_id,
            record.model,
            record.route,
            record.started_at,
            entry.reserved_tokens,
            ended_at=self._now(),
            status=record.status,
            outcome=record.told_outcome,
            replica=record.replica,
            prompt_tokens=_count(usage.prompt_tokens),
            completion_tokens=_count(usage.completion_tokens),
            usage_source=usage.source,
            cost_nano_usd=nano_usd(record.cost_usd),
            prompt_usd_per_million=price.prompt_usd_per_million,
            completion_usd_per_million=price.completion_usd_per_million,
            continuations=record.continuations,
            replayed=record.replayed,
            stream=record.stream,
            priority=record.priority,
            fault=record.fault,
            error_code=record.error_code,
            attempts=len(record.attempts),
            queue_s=_seconds(record.queue_s),
            ttft_s=_seconds(record.ttft_s),
            tpot_s=_seconds(record.tpot_s),
        )
        self._put(entry, encode_line(line), ends=True, keeps=keeps)
        entry.ended = True

    def _put(self, entry: Entry, line: bytes, *, ends: bool, keeps: bool) -> None:
        try:
            if self._kept:
                self._catch_up()
            segment = self._append(line)
        except OSError as error:
            self._note_failure(error)
            if not keeps:
                raise JournalError(
                    "what this request uses can't be written down now",
                    hint="try again shortly; whoever runs this gateway: see its log",
                    retry_after_s=RETRY_AFTER_S,
                ) from error
            self._keep(_Kept(entry, line, ends))
            return
        self._written(entry, segment, ends=ends)

    def _keep(self, new: _Kept) -> None:
        """An end takes the place of its beginning, which it repeats."""
        if new.entry.id in self._kept or len(self._kept) < self._kept_max:
            self._kept[new.entry.id] = new
        else:
            self._drop(new)

    def _drop(self, lost: _Kept) -> None:
        self.dropped += 1
        if lost.ends:
            self._let_go(lost.entry)
        if not self._dropping:
            self._dropping = True
            self._on_problem(JournalError(f"lines for {self._folder} are lost: more than memory may hold"))

    def _catch_up(self) -> None:
        for kept in list(islice(self._kept.values(), CATCH_UP_LINES)):
            self._written(kept.entry, self._append(kept.line), ends=kept.ends)
            self._kept.pop(kept.entry.id, None)

    def _written(self, entry: Entry, segment: _Segment, *, ends: bool) -> None:
        if not ends:
            entry.segment = segment
            segment.open += 1
            return
        if self._kept:
            self._kept.pop(entry.id, None)
        self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        """The file in which it began is held no longer for its sake."""
        segment, entry.segment = entry.segment, None
        if segment is not None:
            segment.open -= 1
            self._close_if_done(segment)

    def _close_if_done(self, segment: _Segment) -> None:
        if not segment.open and segment is not self._segment and segment in self._held:
            self._held.discard(segment)
            os.close(segment.fd)

    def _append(self, line: bytes) -> _Segment:
        """Writes a whole line, or leaves a torn one that the next line starts behind.

        Raises:
            OSError: it was not written whole.
        """
        segment = self._segment
        if segment is None or segment.size_bytes >= self._full_bytes:
            segment = self._next_segment()
        data = b"\n" + line if segment.torn else line
        written = 0
        try:
            while written < len(data):
                written += os.write(segment.fd, data[written:] if written else data)
            segment.torn = False
        except OSError:
            segment.torn = segment.torn or written > 0
            if written < len(data) - 1:  # with all but its newline it is whole
                raise
        finally:
            segment.size_bytes += written
        self.lines += 1
        if self._syncs:
            self._sync(segment)
        if self.failing:
            self.failing = self._dropping = False
            self._on_recovered(len(self._kept))
        return segment

    def _sync(self, segment: _Segment) -> None:
        """After a failure the kernel takes the data for written (fsync(2)), so that the file is used no more."""
        try:
            os.fdatasync(segment.fd)
        except OSError:
            self._abandon()
            raise

    def _next_segment(self) -> _Segment:
        """Another file, or the full one where none can be made."""
        try:
            fresh = self._create()
        except OSError:
            if self._segment is None:
                raise
            self._full_bytes = self._segment.size_bytes + self._segment_bytes // 64
            return self._segment
        self._abandon()
        self._segment = fresh
        self._full_bytes = self._segment_bytes
        self._held.add(fresh)
        return fresh

    def _abandon(self) -> None:
        """Writes no more to the current file, which is held until its requests have ended."""
        old, self._segment = self._segment, None
        if old is not None:
            self._close_if_done(old)

    def _create(self) -> _Segment:
        """A new file, held before its first byte: an empty one is nobody's yet."""
        self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        for number in islice(self._segment_numbers, _CREATE_TRIES):
            path = self._folder / f"{started}-{os.getpid()}-{number}{SUFFIX}"
            with suppress(FileExistsError):
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, FILE_MODE)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._syncs:
                        _sync_folder(self._folder)
                except BlockingIOError:  # a reader has a look at it; it leaves empty files to us
                    os.close(fd)
                    continue
                except OSError:
                    os.close(fd)
                    raise
                return _Segment(path, fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._folder))

    def _note_failure(self, error: OSError) -> None:
        if self.failing:
            return
        self.failing = True
        reason = (error.strerror or str(error)).lower()
        does = "requests are refused" if self._refuses else "lines are kept in memory"
        self._on_problem(
            JournalError(
                f"{self._folder} can't be written: {reason}; {does}",
                hint="make room, or see that the disk works; what is kept is then written",
            )
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _count(tokens: int | None) -> int | None:
    return None if tokens is None else min(max(tokens, 0), COST_TOKENS_MAX)


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(seconds, 0.0), 6)
