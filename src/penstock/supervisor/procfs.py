"""Processes as /proc shows them (proc(5)); one that has ended meanwhile is simply not there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
DEAD = ("Z", "X")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for good: `pid` may be another's later, but not with the same start.

    Args:
        started: ticks after the machine's boot.
    """

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A process at one moment; `cpu_s` is what it has used."""

    pid: int
    parent: int
    session: int
    state: str
    started: int
    cpu_s: float

    @property
    def identity(self) -> Identity:
        """What it can be told by later."""
        return Identity(self.pid, self.started)

    @property
    def lives(self) -> bool:
        """Whether it is more than an entry that nobody has collected yet."""
        return self.state not in DEAD


def seen(pid: int) -> Seen | None:
    """The process `pid`, if there is one."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # its name, before that, may hold anything
    return Seen(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0].decode(),
        started=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
    )


def lives(one: Identity) -> bool:
    """Whether it still runs."""
    now = seen(one.pid)
    return now is not None and now.lives and now.started == one.started


def everyone() -> dict[int, Seen]:
    """All processes, by their ids."""
    pids = (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
    return {pid: found for pid in pids if (found := seen(pid))}


def own_children() -> Iterator[int]:
    """The ids of this process's children, adopted ones among them."""
    for task in (PROC / "self" / "task").iterdir():
        with suppress(OSError):  # a thread that has ended; a kernel without such lists
            yield from map(int, (task / "children").read_bytes().split())


def environment_has(pid: int, variable: str) -> bool:
    """Whether the process was started with `NAME=value`; not where it may not be read or was overwritten."""
    try:
        return variable.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def bytes_read(pid: int) -> int:
    """Bytes that it has read from files and pipes; 0 where that can't be known."""
    with suppress(OSError, ValueError, IndexError):
        lines = (PROC / str(pid) / "io").read_text().split()
        return int(lines[lines.index("rchar:") + 1]) + int(lines[lines.index("read_bytes:") + 1])
    return 0


def program(pid: int) -> str:
    """The name of its program; `?` where it has gone."""
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def kill(one: Identity) -> None:
    """Kills this very process, and never another that has its id now."""
    with suppress(OSError):
        fd = os.pidfd_open(one.pid)
        try:
            now = seen(one.pid)
            if now is not None and now.started == one.started:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


def boot() -> str:
    """What tells this run of the machine from others."""
    with suppress(OSError):
        return (PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    return ""


def machine_oom_kills() -> int | None:
    """Processes that the kernel has killed for memory since the machine's boot; None where it does not tell."""
    with suppress(OSError, ValueError, IndexError):
        words = (PROC / "vmstat").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    return None
