"""Processes: started in a folder, measured with all their children, ended by their own id."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from benchmarks.gateway.arms import Launch

ROOT = Path(__file__).resolve().parents[2]
END_S = 5.0


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


def cpu_s(process: psutil.Process) -> float:
    """User and system seconds of the whole process tree so far.

    The scheduler's own nanoseconds, which user + system are cut from: ticks of 10 ms are too coarse here.
    """
    return sum(_task_cpu_ns(task) for member in _family(process) for task in _tasks(member)) / 1e9


def rss_bytes(process: psutil.Process) -> int:
    """Resident memory of the whole process tree; pages that processes share count for each."""
    total = 0
    for member in _family(process):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def _tasks(process: psutil.Process) -> Sequence[Path]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return list(Path(f"/proc/{process.pid}/task").iterdir())
    return []


def _task_cpu_ns(task: Path) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return int((task / "schedstat").read_text().split()[0])
    return 0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
