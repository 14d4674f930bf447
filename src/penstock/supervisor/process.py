"""The one place that starts processes: each in a session of its own, logged to a file, gone with its starter.

A child's whole process group ends with it: what it leaves behind is killed, and nothing is ever found by
name.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.core.errors import PenstockError
from penstock.engines.spec import Launch
from penstock.supervisor.logfile import LAST_BYTES, open_log, read_from

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GROUP_GONE_WITHIN_S = (
    5.0  # SIGKILL takes effect when a process leaves the kernel, which a GPU driver can delay
)
GROUP_LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its `returncode`, negative for a signal, and the last lines that it wrote."""

    returncode: int
    last_lines: tuple[str, ...] = ()


class Child:
    """A running process and its group. Made by `spawn`."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path, log_start: int) -> None:
        self._popen = popen
        self._log = log
        self._log_start = log_start
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group."""
        return self._popen.pid

    async def ended(self) -> Ended:
        """How it ended, once it has and its group is gone."""
        await self._exited.wait()
        await self._group_gone()
        text = read_from(self._log, self._log_start, LAST_BYTES)
        return Ended(self._popen.returncode, tuple(text.splitlines()))

    async def stop(self, within_s: float) -> Ended:
        """Asks it to end, and kills its group when it has not `within_s` seconds later."""
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._exited.wait()
        self.kill()
        return await self.ended()

    def kill(self) -> None:
        """Kills its group at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if not self._exited.is_set():  # until then the process is not reaped, and its id is no other's
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.kill()
        self._popen.wait()
        self._exited.set()

    async def _group_gone(self) -> None:
        with suppress(TimeoutError, ProcessLookupError):
            async with asyncio.timeout(GROUP_GONE_WITHIN_S):
                while True:
                    os.killpg(self.pid, 0)
                    await asyncio.sleep(GROUP_LOOK_EVERY_S)


def spawn(launch: Launch, log: Path, environ: Mapping[str, str]) -> Child:
    """Starts a process.

    Args:
        log: gets its output, appended.
        environ: what `launch.env` is laid over.

    Raises:
        PenstockError: it can't be started.
    """
    file, log_start = open_log(log)
    with file:
        try:
            popen = subprocess.Popen(
                launch.argv,
                env={**environ, **launch.env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # two system calls, nothing that a lock of ours could block
            )
        except OSError as error:
            raise PenstockError(
                f"{launch.argv[0]} can't be started: {str(error.strerror).lower()}", code="not_started"
            ) from error
    return Child(popen, log, log_start)


def _die_with_parent() -> Callable[[], None]:
    """What a child does before its program: asks the kernel for SIGTERM when its parent ends."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has a handler of its own
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)

    return ask
