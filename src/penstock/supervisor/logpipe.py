"""The pipe from a part to its log: a thread of its own moves what comes, in pieces as large as they come.

A pipe, because only its reader can turn over the file while the part writes, and because a full disk must not
reach the part. The thread holds the interpreter only between its system calls.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from contextlib import suppress

from penstock.supervisor.logfile import LogFile

PIPE_BYTES = 1 << 20  # what the kernel lets anybody ask for; a part waits only when this is full
READ_BYTES = 256 * 1024
GATHER_S = 0.02  # how long lines are gathered that come one by one, so that each costs no wake-up
FINISH_WITHIN_S = 1.0  # an escaped process may hold the other end for good


class LogPipe:
    """Moves a part's output into its log until nobody can write any more.

    Args:
        file: gets it; is closed at the end.
    """

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._read_fd, self.write_fd = os.pipe()
        with suppress(OSError):  # beyond the pages that this user may have
            fcntl.fcntl(self._read_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self._read_fd, False)
        self._wake_fd = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    @property
    def written_bytes(self) -> int:
        """Bytes of this run in the log."""
        return self._file.written_bytes

    def start(self) -> None:
        """Begins, once the part has its end of the pipe."""
        os.close(self.write_fd)
        self._thread.start()

    def abandon(self) -> None:
        """Gives up before `start`: nothing was started."""
        for fd in (self.write_fd, self._read_fd, self._wake_fd):
            os.close(fd)
        self._file.close()

    def finish(self, words: str) -> None:
        """Returns once all that was written is in the log, with a last line of our own; blocks a moment."""
        self._thread.join(FINISH_WITHIN_S)
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        self._file.mark(words)
        self._file.close()
        os.close(self._read_fd)
        os.close(self._wake_fd)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._wake_fd in ready:  # what is in the pipe now is all that counts
                for _ in range(PIPE_BYTES // READ_BYTES):
                    self._file.append(self._read() or b"")
                return
            data = self._read()
            if data == b"":
                return
            self._file.append(data or b"")
            if len(data or b"") < READ_BYTES:
                time.sleep(GATHER_S)

    def _read(self) -> bytes | None:
        """What is there; empty at the end, None where nothing is."""
        try:
            return os.read(self._read_fd, READ_BYTES)
        except BlockingIOError:
            return None
