"""The one place that starts processes: each in a session of its own, logged to a file, gone with its starter.

A child's whole tree ends with it: what it leaves behind is killed, and its end is told once all of it is gone.
Only its first process is asked to end: it knows best in which order the others have to.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.core.errors import PenstockError
from penstock.engines.spec import Launch
from penstock.policy.start import Progress
from penstock.supervisor import procfs
from penstock.supervisor.logfile import MARK, STARTED, LogFile, read_last
from penstock.supervisor.logpipe import LogPipe
from penstock.supervisor.tree import MARK_VARIABLE
from penstock.supervisor.trees import PlantedTree, Trees, clean_up

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAST_BYTES = 256 * 1024  # the cause of an end may stand before several long tracebacks
LOOK_EVERY_S = 1.0  # at a young tree, which grows
LOOK_EVERY_S_MAX = 10.0
ARGV_CHARS_MAX = 4000

_SECRET_OPTION = re.compile(r"--?([\w-]*[_-])?(apikey|key|token|secret|password)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Args:
        returncode: negative for a signal.
        last_lines: what it wrote last.
        left: processes of its tree that it left behind.
        oom_kills: processes of its tree that the kernel has killed for memory, as its control group counts.
        machine_oom_kills: those of the whole machine while it ran; None where the kernel does not tell.
        stuck: ids of processes that could not be ended.
        trouble: what went wrong in cleaning up.
    """

    returncode: int
    last_lines: tuple[str, ...] = ()
    left: int = 0
    oom_kills: int = 0
    machine_oom_kills: int | None = None
    stuck: tuple[int, ...] = ()
    trouble: str = ""


class Child:
    """A running process and its tree. Made by `spawn`."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        planted: PlantedTree,
        log: Path,
        pipe: LogPipe,
        environ: Mapping[str, str],
    ) -> None:
        self._popen = popen
        self._planted = planted
        self._log = log
        self._pipe = pipe
        self._environ = environ
        self._oom_kills_before = procfs.machine_oom_kills()
        self._left = 0
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._looking = self._loop.create_task(self._look())
        self._ending: asyncio.Task[Ended] | None = None

    @property
    def pid(self) -> int:
        """The id of its first process."""
        return self._popen.pid

    @property
    def pids(self) -> frozenset[int]:
        """Of all processes that were seen of its tree."""
        return self._planted.tree.pids

    def progress(self) -> Progress:
        """What its tree has done so far."""
        members = self._planted.tree.look()
        return Progress(
            log_bytes=self._pipe.written_bytes,
            cpu_s=sum(one.cpu_s for one in members),
            read_bytes=sum(procfs.bytes_read(one.pid) for one in members),
            processes=len(members),
        )

    async def ended(self) -> Ended:
        """How it ended, once it has and its tree is gone."""
        await self._exited.wait()
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())
        return await asyncio.shield(self._ending)

    async def stop(self, within_s: float) -> Ended:
        """Asks it to end, and kills its tree when it has not `within_s` seconds later."""
        if not self._exited.is_set():  # until then it is not collected, and its id is no other's
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._exited.wait()
        self.kill()
        return await self.ended()

    def kill(self) -> None:
        """Kills its tree at once."""
        if not self._exited.is_set():
            self._planted.tree.kill()

    async def _look(self) -> None:
        wait_s = LOOK_EVERY_S
        while True:
            await asyncio.sleep(wait_s)
            self._planted.look()
            wait_s = min(1.1 * wait_s, LOOK_EVERY_S_MAX)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._looking.cancel()
        self._left = sum(one.pid != self.pid for one in self._planted.tree.kill())
        self._popen.wait()
        self._planted.collected(self.pid)
        self._exited.set()

    async def _end(self) -> Ended:
        stuck = await self._planted.gone()
        trouble = await asyncio.to_thread(clean_up, self._planted.cleanup, self._environ)
        group = self._planted.tree.group
        oom_kills = group.oom_kills() if group else 0
        returncode = self._popen.returncode
        code = f"exit code {returncode}" if returncode >= 0 else f"signal {-returncode}"
        await asyncio.to_thread(self._pipe.finish, f"ended pid {self.pid} with {code}")
        text = read_last(self._log, min(self._pipe.written_bytes, LAST_BYTES))
        self._planted.uproot()
        return Ended(
            returncode=returncode,
            last_lines=tuple(line for line in text.splitlines() if not line.startswith(MARK)),
            left=self._left,
            oom_kills=oom_kills,
            machine_oom_kills=_grown(self._oom_kills_before, procfs.machine_oom_kills()),
            stuck=stuck,
            trouble=trouble,
        )


def spawn(
    launch: Launch,
    log: LogFile,
    environ: Mapping[str, str],
    planted: PlantedTree | None = None,
) -> Child:
    """Starts a process.

    Args:
        log: gets its output; is closed at its end.
        environ: what `launch.env` is laid over.
        planted: its tree; one that is on no record by default.

    Raises:
        PenstockError: it can't be started.
    """
    planted = planted or Trees().plant(log.path.stem)
    environ = {**environ, **launch.env, MARK_VARIABLE: planted.tree.mark}
    pipe = LogPipe(log)
    try:
        with _entrance(planted) as doors:
            popen = subprocess.Popen(
                launch.argv,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=pipe.write_fd,
                stderr=pipe.write_fd,
                start_new_session=True,
                preexec_fn=_before_program(doors),  # system calls, nothing that a lock of ours could block
            )
    except OSError as error:
        pipe.abandon()
        planted.uproot()
        raise PenstockError(
            f"{launch.argv[0]} can't be started: {str(error.strerror).lower()}", code="not_started"
        ) from error
    log.mark(f"{STARTED} {popen.pid}: {told(launch.argv)}")
    pipe.start()
    planted.begin(popen.pid)
    return Child(popen, planted, log.path, pipe, environ)


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def told(argv: Sequence[str]) -> str:
    """A command line as it may be shown: without what is said to be a key, a token, a secret or a password."""
    return " ".join(_words(argv)).replace("\n", "\\n")[:ARGV_CHARS_MAX]


def _words(argv: Sequence[str]) -> Iterator[str]:
    hidden = False
    for word in argv:
        name, equals, _ = word.partition("=")
        is_secret = bool(_SECRET_OPTION.fullmatch(name))
        yield "***" if hidden else f"{name}=***" if is_secret and equals else word
        hidden = is_secret and not equals and not hidden


@contextmanager
def _entrance(planted: PlantedTree) -> Iterator[tuple[int, ...]]:
    """What a process writes to in order to enter the control group, opened before it is there."""
    group = planted.tree.group
    with ExitStack() as stack:
        doors = []
        for folder in group.folders if group else ():
            with suppress(OSError):
                doors.append(stack.enter_context((folder / "cgroup.procs").open("wb", 0)).fileno())
        yield tuple(doors)


def _before_program(doors: tuple[int, ...]) -> Callable[[], None]:
    """What a child does before its program: enters its group, and asks the kernel for SIGTERM when its parent ends."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def enter() -> None:
        for door in doors:
            with suppress(OSError):  # who started it looks whether it is there
                os.write(door, b"0")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has a handler of its own
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)

    return enter
