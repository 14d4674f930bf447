"""Processes: started in a folder, measured with all their children, held to a share of a core, ended by their id."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from benchmarks.gateway.arms import Launch

ROOT = Path(__file__).resolve().parents[2]
END_S = 5.0
# What a throttled process may save up while it is not asked for anything.
BURST_S = 0.02


class Tree:
    """A process and its descendants, found once, so that watching them costs little: see `look`."""

    def __init__(self, root: psutil.Process) -> None:
        self.root = root
        self._cpu_s: dict[int, float] = {}
        self.members: list[psutil.Process] = []
        self.look()

    def look(self) -> None:
        """Finds the descendants anew; those that have ended keep their count."""
        with suppress(psutil.NoSuchProcess):
            self.members = [self.root, *self.root.children(recursive=True)]

    def cpu_s(self) -> dict[int, float]:
        """User and system seconds of each member so far, by its id."""
        for member in self.members:
            with suppress(OSError):
                self._cpu_s[member.pid] = process_cpu_s(member.pid)
        return dict(self._cpu_s)

    def rss_bytes(self) -> int:
        """Resident memory of all members; pages that processes share count for each."""
        return sum(_rss_bytes(member) for member in self.members)


class Throttle:
    """Holds each process to `share` of one core: it is stopped while it has had more CPU than that.

    Nothing else makes a proxy the bottleneck where client and backend run on the same few cores. It is measured
    in CPU time, not in wall time, so that it does not matter who else wants the core.

    Args:
        members: the processes.
        share: of one core, above 0 and at most 1.
        now_s: on any clock that `tick` is called with too.
        cpu_s: the CPU seconds of a process so far, by its id.
    """

    def __init__(
        self,
        members: Sequence[psutil.Process],
        share: float,
        now_s: float,
        cpu_s: Callable[[int], float] | None = None,
    ) -> None:
        self._share = share
        self._last_s = now_s
        self._cpu_s = cpu_s or process_cpu_s
        self._used_s = {member: self._cpu_s(member.pid) for member in members}
        self._left_s = dict.fromkeys(members, 0.0)
        self._stopped: set[psutil.Process] = set()

    def tick(self, now_s: float) -> None:
        """Stops and continues each process as its account stands; call it every few milliseconds."""
        earned_s = (now_s - self._last_s) * self._share
        self._last_s = now_s
        for member, used_s in self._used_s.items():
            with suppress(OSError, psutil.NoSuchProcess):
                self._used_s[member] = self._cpu_s(member.pid)
                spent_s = self._used_s[member] - used_s
                self._left_s[member] = min(self._left_s[member] + earned_s - spent_s, BURST_S)
                self._hold(member, hold=self._left_s[member] < 0)

    def end(self) -> None:
        """Lets all of them go on."""
        for member in list(self._stopped):
            with suppress(psutil.NoSuchProcess):
                self._hold(member, hold=False)

    def _hold(self, member: psutil.Process, *, hold: bool) -> None:
        if hold and member not in self._stopped:
            member.suspend()
            self._stopped.add(member)
        elif not hold and member in self._stopped:
            self._stopped.discard(member)
            member.resume()


@contextmanager
def throttled(tree: Tree, share: float) -> Iterator[Throttle]:
    """`tree` under a `Throttle` while the block runs."""
    throttle = Throttle(tree.members, share, time.monotonic())
    try:
        yield throttle
    finally:
        throttle.end()


@contextmanager
def started(launch: Launch, folder: Path) -> Iterator[psutil.Process]:
    """The process of an arm while the block runs; what it writes goes to `folder`/output.log."""
    for path, text in launch.files.items():
        path.write_text(text)
    with (folder / "output.log").open("wb") as log:
        child = subprocess.Popen(launch.argv, cwd=folder, env=dict(launch.env), stdout=log, stderr=log)
    process = psutil.Process(child.pid)
    try:
        yield process
    finally:
        _end(child, process)


@contextmanager
def backend() -> Iterator[tuple[psutil.Process, int]]:
    """The backend's process and port."""
    argv = (sys.executable, "-m", "benchmarks.gateway.backend")
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    process = psutil.Process(child.pid)
    try:
        assert child.stdout is not None
        yield process, int(child.stdout.readline())
    finally:
        _end(child, process)


def _end(child: subprocess.Popen[bytes], process: psutil.Process) -> None:
    family = _family(process)
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for left in family:
        with suppress(psutil.NoSuchProcess):
            left.kill()  # psutil compares start times: an id that was given to another is left alone
    if child.stdout is not None:
        child.stdout.close()


def _family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def process_cpu_s(pid: int) -> float:
    """User and system seconds of one process so far, in nanoseconds' resolution, with threads that have ended.

    Ticks of 10 ms, which /proc has, are too coarse here. Clock ids: clock_getcpuclockid(3), MAKE_PROCESS_CPUCLOCK
    in Linux's posix-timers.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime((~pid << 3) | 2)


def _rss_bytes(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
