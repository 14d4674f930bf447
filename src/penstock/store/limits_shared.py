"""Accounts of one machine: `SharedLimits` keeps them in a mapped file, so that N workers keep one limit together.

The file is a header and fixed-size records, found by a digest of the subject's id (open addressing, linear
probing). One `flock` guards every operation; the kernel frees it when its holder is killed. What runs is kept
for each worker apart, and each worker holds a lock on its own number for as long as it lives: what a killed one
left behind is cleared by the next to open the file.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from asyncio import sleep
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from math import inf, isfinite, isnan
from pathlib import Path

from penstock.core.errors import PenstockError
from penstock.policy import budget
from penstock.policy.budget import Account, Balance, Cost, Refused, Standing, Subject
from penstock.store.home import FILE_MODE
from penstock.store.limits import LocalLimits, Reservation

VERSION = 1
WORKERS_MAX = 64
SLOTS = 16_384  # more than the keys and tenants that a home may hold
PROBES_MAX = 128  # a longer search means that the file is nearly full
OPEN_TRIES = 20

# A worker holds the lock for microseconds, longer where the machine gives it no time. Where this many tries in a
# row, half a second, find that nobody else got it either, its holder was stopped: then it is passed over, for an
# update may be lost, but no request may hang.
LOCK_YIELDS = 20
LOCK_SLEEP_S = 0.001
LOCK_STILL_TRIES_MAX = 500
LOCK_TRIES_MAX = 5000

_HEADER = struct.Struct("=8s4I")  # magic, version, record bytes, slots, workers so far
_HEADER_BYTES = 64
_WORKERS = struct.Struct("=I")
_WORKERS_AT = _HEADER.size - _WORKERS.size
_TURNS = struct.Struct("=Q")  # how often the lock was taken
_TURNS_AT = _HEADER.size
_STATE = struct.Struct("=7d")  # requests, tokens, at_s, day_usd, day_ends_s, month_usd, month_ends_s
_HEAD = struct.Struct("=16s7d")  # digest of the id, state
_MINE = struct.Struct("=2d")  # parallel, reserved_usd: one for each worker
_RECORD_BYTES = _HEAD.size + WORKERS_MAX * _MINE.size
_FILE_BYTES = _HEADER_BYTES + SLOTS * _RECORD_BYTES
_OFFSETS = range(_HEADER_BYTES, _FILE_BYTES, _RECORD_BYTES)
_FORMAT = (b"pstklim\0", VERSION, _RECORD_BYTES, SLOTS)
_NOBODY = bytes(16)
_IDLE = bytes(_MINE.size)
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of fcntl(2): type, whence, start, length, pid
_SHARED = "shared"


class SharedLimits:
    """Accounts of all workers of this machine that opened the same file.

    A request whose subjects have no limit at all is counted in this worker only, without a lock.
    Each worker opens the file by itself, after it was forked: a lock is of the open file.

    Args:
        path: the file; one with another version or size, or garbage, is replaced.
        worker: 0 to `WORKERS_MAX` - 1; no two workers that live share a number.
        clock: seconds since the epoch.

    Raises:
        ValueError: `worker` is out of range.
        PenstockError: the file can't be made, or `worker` is taken.
    """

    def __init__(self, path: Path, worker: int, clock: Callable[[], float]) -> None:
        if not 0 <= worker < WORKERS_MAX:
            raise ValueError(f"worker: expected 0 to {WORKERS_MAX - 1}, not {worker}")
        self._clock = clock
        self._worker = worker
        self._unlimited = LocalLimits(clock)
        self._lock_is_stuck = False
        try:
            self._fd = _opened(path)
        except OSError as error:
            raise PenstockError(
                f"{path}: {error.strerror or error}",
                code="limits_unavailable",
                hint="the limits shared by workers are kept there; make room, or make it writable",
            ) from error
        try:
            self._map = mmap.mmap(self._fd, _FILE_BYTES)
            self._move_in(path)
        finally:
            _unlock(self._fd)

    async def reserve(self, subjects: Sequence[Subject], cost: Cost) -> Reservation | Refused:
        """Counts a request against every subject, or against none."""
        if all(subject.limits.unlimited for subject in subjects):
            return await self._unlimited.reserve(subjects, cost)
        cost = budget.bounded(cost)
        await self._lock()
        try:
            offsets = self._places(subjects)
            accounts = [self._load(offset) for offset in offsets]
            verdict = budget.reserve(accounts, subjects, cost, self._clock())
            if isinstance(verdict, Refused):
                return verdict
            for offset, account in zip(offsets, accounts, strict=True):
                self._save(offset, account)
                self._count(offset, 1, cost.usd)
        finally:
            _unlock(self._fd)
        return Reservation(subjects, cost, verdict.standing, _SHARED)

    async def settle(self, reservation: Reservation, actual: Cost) -> None:
        """Charges what was used in place of what was reserved; nothing when it has ended already."""
        if reservation.lease != _SHARED:
            await self._unlimited.settle(reservation, actual)
        elif not reservation.ended:
            await self._end(reservation, partial(budget.settle, actual=actual))

    async def release(self, reservation: Reservation) -> None:
        """Gives back a request that was not sent to an engine; nothing when it has ended already."""
        if reservation.lease != _SHARED:
            await self._unlimited.release(reservation)
        elif not reservation.ended:
            await self._end(reservation, budget.release)

    async def standing(self, subjects: Sequence[Subject]) -> Standing:
        """What is left to the tightest of the subjects."""
        await self._lock()
        try:
            accounts = [self._peek(subject.id) for subject in subjects]
        finally:
            _unlock(self._fd)
        return budget.standing(accounts, subjects, self._clock())

    async def usage(self, subjects: Sequence[Subject]) -> tuple[Balance, ...]:
        """How each subject stands, in their order; one without limits as far as this worker knows."""
        await self._lock()
        try:
            accounts = [self._peek(subject.id) for subject in subjects]
        finally:
            _unlock(self._fd)
        now_s = self._clock()
        here = await self._unlimited.usage(subjects)
        return tuple(
            mine if subject.limits.unlimited else budget.balance(account, subject, now_s)
            for account, subject, mine in zip(accounts, subjects, here, strict=True)
        )

    async def seed_spend(self, subject_id: str, day_usd: float, month_usd: float) -> None:
        """Takes from the ledger that at least this much was spent in this day and month (UTC)."""
        await self._unlimited.seed_spend(subject_id, day_usd, month_usd)
        await self._lock()
        try:
            (offset,) = self._places((Subject(subject_id),))
            account = self._load(offset)
            budget.seed(account, day_usd, month_usd, self._clock())
            self._save(offset, account)
        finally:
            _unlock(self._fd)

    async def clear_worker(self, worker: int) -> None:
        """Forgets what runs in a worker that is known to be dead; opening the file does it for all of them."""
        await self._lock()
        try:
            self._clear(worker)
        finally:
            _unlock(self._fd)

    async def close(self) -> None:
        """Forgets what runs in this worker, and closes the file."""
        await self.clear_worker(self._worker)
        self._map.close()
        os.close(self._fd)

    async def _end(self, reservation: Reservation, end: Callable[..., None]) -> None:
        reservation.ended = True
        try:
            await self._lock()
        finally:  # whoever is cancelled while it waits for the lock has ended all the same
            try:
                self._end_locked(reservation, end)
            finally:
                _unlock(self._fd)

    def _end_locked(self, reservation: Reservation, end: Callable[..., None]) -> None:
        subjects, cost = reservation.subjects, reservation.cost
        offsets = self._places(subjects)
        accounts = [self._load(offset) for offset in offsets]
        end(accounts, subjects, reserved=cost, now_s=self._clock())
        for offset, account in zip(offsets, accounts, strict=True):
            self._save(offset, account)
            self._count(offset, -1, -cost.usd)

    async def _lock(self) -> None:
        """Takes the lock, or passes over one that nobody gives back; then without waiting until it is free."""
        seen, still = self._turns, 0
        for tried in range(LOCK_TRIES_MAX):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen, still = self._turns, still + 1 if self._turns == seen else 0
                if self._lock_is_stuck or still > LOCK_STILL_TRIES_MAX:
                    break
                await sleep(0 if tried < LOCK_YIELDS else LOCK_SLEEP_S)
            else:
                self._lock_is_stuck = False
                _TURNS.pack_into(self._map, _TURNS_AT, (self._turns + 1) % 2**64)
                return
        self._lock_is_stuck = True

    @property
    def _turns(self) -> int:
        turns: int = _TURNS.unpack_from(self._map, _TURNS_AT)[0]
        return turns

    def _move_in(self, path: Path) -> None:
        if not _take_number(self._fd, self._worker):
            raise PenstockError(
                f"{path}: worker {self._worker} runs already",
                code="limits_unavailable",
                hint="give each worker a number of its own",
            )
        seen = self._workers
        for worker in range(seen):
            if worker == self._worker or _take_number(self._fd, worker):
                self._clear(worker)
                if worker != self._worker:
                    _give_number(self._fd, worker)
        _WORKERS.pack_into(self._map, _WORKERS_AT, max(seen, self._worker + 1))

    @property
    def _workers(self) -> int:
        """How many numbers were ever used; each operation looks, for another worker may have come."""
        workers: int = _WORKERS.unpack_from(self._map, _WORKERS_AT)[0]
        return min(workers, WORKERS_MAX)

    def _clear(self, worker: int) -> None:
        at = _HEAD.size + worker * _MINE.size
        for offset in _OFFSETS:
            if self._map[offset + at : offset + at + _MINE.size] != _IDLE:
                self._map[offset + at : offset + at + _MINE.size] = _IDLE

    def _find(self, name: bytes) -> tuple[int, bool]:
        """The offset of the record, or of the empty one that is its place; and whether it is there.

        Where the search gets too long, the offset is 0.
        """
        home = int.from_bytes(name[:4], "little")
        for probe in range(PROBES_MAX):
            offset = _HEADER_BYTES + (home + probe) % SLOTS * _RECORD_BYTES
            found = self._map[offset : offset + len(name)]
            if found in (name, _NOBODY):
                return offset, found == name
        return 0, False

    def _peek(self, subject_id: str) -> Account:
        offset, known = self._find(_digest(subject_id))
        return self._load(offset) if known else Account()

    def _places(self, subjects: Sequence[Subject]) -> list[int]:
        """The offsets of the subjects' records, which are made where there are none."""
        names = [_digest(subject.id) for subject in subjects]
        offsets = [self._place(name) for name in names]
        if 0 in offsets:
            self._thin_out()
            offsets = [self._place(name) for name in names]
        return offsets

    def _place(self, name: bytes) -> int:
        offset, known = self._find(name)
        if offset and not known:
            self._map[offset : offset + _RECORD_BYTES] = _blank(name)
        return offset

    def _thin_out(self) -> None:
        """Forgets accounts that are as good as fresh, then those worth least, to half of the slots."""
        now_s = self._clock()
        kept = [
            (budget.worth(account), self._map[offset : offset + _RECORD_BYTES])
            for offset in _OFFSETS
            if self._map[offset : offset + len(_NOBODY)] != _NOBODY
            and not budget.is_forgettable(account := self._load(offset), now_s)
        ]
        kept.sort()
        self._map[_HEADER_BYTES:] = bytes(_FILE_BYTES - _HEADER_BYTES)
        for _, record in kept[-SLOTS // 2 :]:
            offset, _known = self._find(record[: len(_NOBODY)])
            if offset:
                self._map[offset : offset + _RECORD_BYTES] = record

    def _load(self, offset: int) -> Account:
        """The account at `offset`; a fresh one where what is there can't be."""
        values = _layout(self._workers).unpack_from(self._map, offset)
        _, requests, tokens, at_s, day_usd, day_ends_s, month_usd, month_ends_s, *running = values
        parallel, reserved_usd = sum(running[::2]), sum(running[1::2])
        if isnan(requests) or isnan(tokens) or not isfinite(sum(values[3:])):
            self._map[offset : offset + _RECORD_BYTES] = _blank(self._map[offset : offset + len(_NOBODY)])
            return Account()
        return Account(
            requests,
            tokens,
            at_s,
            int(parallel),
            reserved_usd if parallel else 0.0,
            day_usd,
            day_ends_s,
            month_usd,
            month_ends_s,
        )

    def _save(self, offset: int, account: Account) -> None:
        """Writes the account, but for what runs: that is `_count`'s."""
        _STATE.pack_into(
            self._map,
            offset + len(_NOBODY),
            account.requests,
            account.tokens,
            account.at_s,
            account.day_usd,
            account.day_ends_s,
            account.month_usd,
            account.month_ends_s,
        )

    def _count(self, offset: int, requests: int, usd: float) -> None:
        """Adds to what runs in this worker."""
        at = offset + _HEAD.size + self._worker * _MINE.size
        parallel, reserved_usd = _MINE.unpack_from(self._map, at)
        if parallel + requests > 0.0:
            _MINE.pack_into(self._map, at, parallel + requests, max(0.0, reserved_usd + usd))
        else:
            self._map[at : at + _MINE.size] = _IDLE


@lru_cache(maxsize=SLOTS)
def _digest(subject_id: str) -> bytes:
    return blake2b(subject_id.encode("utf-8", "surrogatepass"), digest_size=len(_NOBODY)).digest()


@lru_cache(maxsize=WORKERS_MAX)
def _layout(workers: int) -> struct.Struct:
    """A record as far as `workers` workers use it."""
    return struct.Struct(f"=16s7d{2 * workers}d")


def _blank(name: bytes) -> bytes:
    return _HEAD.pack(name, inf, inf, 0.0, 0.0, 0.0, 0.0, 0.0).ljust(_RECORD_BYTES, b"\0")


def _opened(path: Path) -> int:
    """The file at `path`, locked, and fit to be mapped; it is made where there is none that is.

    A foreign file is not written over but replaced: somebody may have mapped it.
    """
    for _ in range(OPEN_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_at(fd, path):
                if _is_ours(fd):
                    return fd
                _replace(path)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise OSError(f"it was replaced {OPEN_TRIES} times while it was opened")


def _is_at(fd: int, path: Path) -> bool:
    """Whether `fd` is still the file at `path`: another worker may have replaced it after our open."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _is_ours(fd: int) -> bool:
    if os.fstat(fd).st_size != _FILE_BYTES:
        return False
    magic, version, record_bytes, slots, workers = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
    return (magic, version, record_bytes, slots) == _FORMAT and workers <= WORKERS_MAX


def _replace(path: Path) -> None:
    """Puts an empty file in the place of the one at `path`; room for all of it is taken now.

    In a file with holes, a write to a full disk would end the process with SIGBUS.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        os.posix_fallocate(fd, 0, _FILE_BYTES)
        os.pwrite(fd, _HEADER.pack(*_FORMAT, 0), 0)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _unlock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)


def _take_number(fd: int, worker: int) -> bool:
    """Locks the worker's number for the life of `fd`; False where a living worker has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, worker, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _give_number(fd: int, worker: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, worker, 1, 0))
