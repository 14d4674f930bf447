"""Whose a process is: that of a replica, where it is in its tree or its session; else nobody's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

DEPTH_MAX = 64
"""Of a tree of processes; what is deeper has no owner."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A replica, by its name, its model and the process that was started for it."""

    replica: str
    model: str
    pid: int


@dataclass(frozen=True, slots=True)
class Kin:
    """A process: its parent, its session, and the name of its program."""

    parent: int
    session: int
    program: str


def kin(pid: int, proc: Path = Path("/proc")) -> Kin | None:
    """What the kernel knows of a process; None where it has ended, or is not to be seen from here."""
    try:
        stat = (proc / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    program, _, rest = stat.partition("(")[2].rpartition(")")
    numbers = rest.split()
    return Kin(int(numbers[1]), int(numbers[3]), program)


def owner_of(pid: int, owners: Mapping[int, Owner], look: Callable[[int], Kin | None] = kin) -> Owner | None:
    """The replica that a process belongs to.

    Args:
        owners: replicas by the process that was started for each, which leads a session of its own.
        look: tells of a process.
    """
    for _ in range(DEPTH_MAX):
        if pid in owners:
            return owners[pid]
        found = look(pid)
        if found is None or pid <= 1:
            return None
        if found.session in owners:
            return owners[found.session]
        pid = found.parent
    return None


def by_pid(owners: Iterable[Owner]) -> dict[int, Owner]:
    """Replicas by their process."""
    return {owner.pid: owner for owner in owners if owner.pid > 0}
