"""Fetching a model's files: several at once, each gone on with where it was cut off, and each by its checksum.

A file goes by plain HTTP with ranges, which alone can go on after a `kill -9`; what is there of it lies in a file of
its own that is locked while it grows. It gets its name when it is whole and its checksum is right, never before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from penstock.core.errors import PenstockError
from penstock.core.units import format_size
from penstock.engines.hub import CHUNK_BYTES, Hub, HubError, Listing
from penstock.engines.hub_errors import NO_SPACE
from penstock.engines.progress import Tally
from penstock.engines.shelf import Shelf
from penstock.planner.repository import Listed

WORKERS = 4
"""Files at once: enough to fill a fast line, and few enough for what the Hub allows one address."""

FAILURES_MAX = 6
FIRST_WAIT_S, WAIT_MAX_S = 1.0, 120.0
"""Failures in a row without a byte between them; the wait after the first, which doubles; the longest one, also where
the Hub asks for more."""

PLAIN_BYTES_MAX = 50 * 10**9
"""Of a file that the Hub gives by plain HTTP (huggingface_hub's `MAX_HTTP_DOWNLOAD_SIZE`)."""

WATCH_EVERY_S = 0.2
STOP_WITHIN_S = 1.0
"""For threads to see that they shall; one that waits for a silent server is left behind."""


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """The download was told to end."""


class Download:
    """The files of one model on their way to a shelf.

    Args:
        files: to fetch, in this order.
        verify: whether the checksums of files that are there already are looked at again.
        first_wait_s: after a failure.
        plain_bytes_max: of a file that is fetched here; a larger one is left to huggingface_hub.

    Raises:
        HubError: from `run`: a file can't be had, or there is no room for it.
    """

    def __init__(
        self,
        hub: Hub,
        listing: Listing,
        files: Sequence[Listed],
        shelf: Shelf,
        *,
        verify: bool,
        first_wait_s: float = FIRST_WAIT_S,
        plain_bytes_max: int = PLAIN_BYTES_MAX,
    ) -> None:
        self._hub = hub
        self._listing = listing
        self._shelf = shelf
        self._verify = verify
        self._first_wait_s = first_wait_s
        self._plain_bytes_max = plain_bytes_max
        self._files = tuple(files)
        self._stop = threading.Event()
        self.tally = Tally(files)
        for file in files:
            self.tally.found(file, file.size_bytes if shelf.whole(file) else self._part_bytes(file))

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched."""
        standing = self.tally.standing()
        return standing.total_bytes - standing.have_bytes

    def check_space(
        self, free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    ) -> None:
        """Compares what is missing with what is free.

        Args:
            free_bytes: of the disk that a folder is on.

        Raises:
            HubError: there is less room than is needed.
        """
        folder = next(path for path in (self._shelf.root, *self._shelf.root.parents) if path.is_dir())
        free = free_bytes(folder)
        if self.missing_bytes > free:
            raise HubError(
                f"{self._listing.repo} needs {format_size(self.missing_bytes)} more in {self._shelf.root}, "
                f"and {format_size(free)} are free there",
                code=NO_SPACE,
                hint="free some, put it elsewhere with --to FOLDER or HF_HOME, or name a smaller quantization",
            )

    def run(self, watch: Callable[[], None]) -> None:
        """Fetches them all; returns when every file is whole and where it belongs.

        Args:
            watch: called some times a second.
        """
        same: dict[str, list[Listed]] = {}
        for file in self._files:
            same.setdefault(_checksum(file), []).append(file)
        jobs: queue.SimpleQueue[list[Listed]] = queue.SimpleQueue()
        for files in same.values():  # what is there under two names is one file on a shelf
            jobs.put(files)
        errors: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        # Daemons: one that is left behind holds up no exit, and what it has written so far is in order.
        workers = [
            threading.Thread(target=self._work, args=(jobs, errors), daemon=True)
            for _ in range(min(WORKERS, len(self._files)))
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                while worker.is_alive() and errors.empty():
                    worker.join(WATCH_EVERY_S)
                    watch()
            if not errors.empty():
                raise errors.get()
        finally:
            self._stop.set()
            for worker in workers:
                worker.join(STOP_WITHIN_S / len(workers))
        self._shelf.finish()

    def _work(self, jobs: queue.SimpleQueue[list[Listed]], errors: queue.SimpleQueue[Exception]) -> None:
        try:
            while not self._stop.is_set():
                for file in jobs.get_nowait():
                    self._file(file)
        except (queue.Empty, Stopped):
            pass
        except Exception as error:  # it is raised by `run`
            self._stop.set()
            errors.put(error)

    def _file(self, file: Listed) -> None:
        there = self._shelf.whole(file)
        if there is not None and self._verify and not self._is_sound(there, file):
            self.tally.note(f"{file.name} is damaged: it does not have its checksum; it is fetched again")
            self._shelf.drop(file)
            there = None
        if there is None:
            (self._fetch if file.size_bytes <= self._plain_bytes_max else self._fetch_large)(file)
        with _on_disk(file):
            self._shelf.place(file)
        self.tally.ended(file)

    def _is_sound(self, path: Path, file: Listed) -> bool:
        with _on_disk(file), path.open("rb") as content:
            return str(self._read(content, file, file.size_bytes).hexdigest()) == _checksum(file)

    def _fetch(self, file: Listed) -> None:
        part = self._shelf.part(file)
        with _on_disk(file):
            part.parent.mkdir(parents=True, exist_ok=True)
            out = part.open("a+b", buffering=0)
        with out:
            _lock(out, file)
            if self._received(file, out) or self._received(file, out):
                with _on_disk(file):
                    os.fsync(out.fileno())
                return
        raise self._damaged(file, "came twice")

    def _fetch_large(self, file: Listed) -> None:
        """Has huggingface_hub fetch it, by Xet: without a sight of how far it is, and from the start each time."""
        self.tally.note(
            f"{file.name} has {format_size(file.size_bytes)}, which the Hub gives by Xet alone: it comes without "
            "progress, and is begun anew where it is cut off"
        )
        path = self._hub.fetch_large(self._listing, file.name, self._shelf.large)
        if not self._is_sound(path, file):
            self._shelf.drop(file)
            raise self._damaged(file, "came")

    def _damaged(self, file: Listed, came: str) -> HubError:
        return HubError(
            f"{self._listing.repo}: {file.name} {came} with another checksum than the Hub says it has",
            hint="something between here and the Hub changes it: check the proxy, or the mirror that HF_ENDPOINT names",
        )

    def _received(self, file: Listed, out: IO[bytes]) -> bool:
        """Receives what is missing; whether the whole has the right checksum. It is emptied where it does not."""
        have = os.fstat(out.fileno()).st_size
        if have > file.size_bytes:
            out.truncate(have := 0)
        self.tally.found(file, have)
        out.seek(0)
        digest, failures = self._read(out, file, have), 0
        while have < file.size_bytes:
            before = have
            try:
                with self._hub.open(self._listing, file.name, have) as incoming:
                    if incoming.start != have:
                        digest, have = _begun(file), self._emptied(file, out)
                    for chunk in incoming.chunks:
                        have = self._written(chunk, have, file, out)
                        digest.update(chunk)
                    if have < file.size_bytes:
                        raise HubError(f"{file.name} ended after {format_size(have)}", transient=True)
            except HubError as error:
                failures = 1 if have > before else failures + 1
                self._wait(error, failures, file)
        if digest.hexdigest() == _checksum(file):
            return True
        self.tally.note(f"{file.name} came damaged: it does not have its checksum; it is fetched again")
        self._emptied(file, out)
        return False

    def _read(self, content: IO[bytes], file: Listed, left: int) -> Any:
        """The checksum of the `left` bytes that are there so far."""
        digest = _begun(file)
        with _on_disk(file):
            while left > 0 and (chunk := content.read(min(left, CHUNK_BYTES))):
                self._go_on()
                left -= len(chunk)
                digest.update(chunk)
                self.tally.checked(len(chunk))
        return digest

    def _written(self, chunk: bytes, have: int, file: Listed, out: IO[bytes]) -> int:
        self._go_on()
        if have + len(chunk) > file.size_bytes:
            raise HubError(
                f"{self._listing.repo}: {file.name} has more than the {file.size_bytes} bytes that the Hub says it has",
                hint="check the proxy, or the mirror that HF_ENDPOINT names",
            )
        with _on_disk(file):
            rest = memoryview(chunk)
            while rest:
                rest = rest[out.write(rest) :]
        self.tally.received(file, len(chunk))
        return have + len(chunk)

    def _emptied(self, file: Listed, out: IO[bytes]) -> int:
        with _on_disk(file):
            out.truncate(0)
        self.tally.found(file, 0)
        return 0

    def _wait(self, error: HubError, failures: int, file: Listed) -> None:
        """Waits before another try, unless there is no sense in one."""
        wait_s = max(error.wait_s, self._first_wait_s * 2 ** (failures - 1))
        if not error.transient or failures > FAILURES_MAX or wait_s > WAIT_MAX_S:
            raise error
        self.tally.note(f"{file.name}: {error.message}; going on in {wait_s:.0f} s")
        self._stop.wait(wait_s)
        self._go_on()

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _part_bytes(self, file: Listed) -> int:
        try:
            size = self._shelf.part(file).stat().st_size
        except OSError:
            return 0
        return size if size <= file.size_bytes else 0


def _begun(file: Listed) -> Any:
    """A checksum of nothing yet: SHA-256 of the content, or what git calls a blob, for which its size comes first."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)


def _checksum(file: Listed) -> str:
    return file.sha256 or file.blob


def _lock(out: IO[bytes], file: Listed) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PenstockError(
            f"{file.name} is being fetched by another process",
            code="hub_busy",
            hint="wait for it; what it has fetched is not fetched again",
        ) from error
    except OSError:  # a file system without locks: its checksum says in the end whether two wrote
        pass


@contextmanager
def _on_disk(file: Listed) -> Iterator[None]:
    """Says what the disk refused; without it, it would look as if the Hub had."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HubError(
            f"{file.name}: {'the disk is full' if full else str(error)}",
            code=NO_SPACE if full else None,
            hint="free some, and run the same command again: it goes on where it was"
            if full
            else "check the folder, or name another with --to FOLDER",
        ) from error
