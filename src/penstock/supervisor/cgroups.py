"""Control groups: one for each start of a part, so that no process of it can be missed.

Version 2 where it is mounted, also beside version 1 (hybrid); else a hierarchy of version 1. Groups are made below
the one that this process is in. What was delegated by systemd (`Delegate=yes`) is used as it asks: this process
moves to a leaf, and the groups count memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SELF = Path("/proc/self")
V1_HIERARCHIES = ("pids", "name=systemd", "freezer")  # the first that can be written holds the processes
LEAF = "supervisor"
SWEPT_AFTER_S = 60.0  # a group is empty for a moment before its first process enters
PREFIX = "penstock-"
NAME_MAX = 160  # a folder's name has 255
_DELEGATED = ("user.delegate", "trusted.delegate")  # systemd's marks: CGROUP_DELEGATION in its documentation


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one start.

    Args:
        path: its folder.
        memory: its folder in version 1's memory hierarchy, which is another; None elsewhere.
    """

    path: Path
    memory: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of its folders."""
        return (self.path, *((self.memory,) if self.memory else ()))

    def pids(self) -> tuple[int, ...]:
        """The processes in it and below."""
        found: set[int] = set()
        for folder in _bottom_up(self.path):
            with suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return tuple(sorted(found))

    def kill(self) -> bool:
        """Kills all of them at once; False where the kernel can't (before 5.14, and version 1)."""
        try:
            fd = os.open(self.path / "cgroup.kill", os.O_WRONLY)
        except OSError:
            return False
        with os.fdopen(fd, "w", closefd=True) as file:
            file.write("1")
        return True

    def oom_kills(self) -> int:
        """Processes of it that the kernel has killed for memory; 0 where nobody counts."""
        file = self.memory / "memory.oom_control" if self.memory else self.path / "memory.events"
        with suppress(OSError, ValueError):
            words = file.read_text().split()
            return int(words[words.index("oom_kill") + 1])
        return 0

    def remove(self) -> None:
        """Removes it, empty as it must be; what can't be removed stays."""
        for top in self.folders:
            for folder in _bottom_up(top):
                with suppress(OSError):
                    folder.rmdir()


class Cgroups:
    """Where groups can be made.

    Args:
        parent: the folder that they go into; None where there is none to be written.
        memory_parent: the same of version 1's memory hierarchy.
    """

    def __init__(self, parent: Path | None = None, memory_parent: Path | None = None) -> None:
        self._parent = parent
        self._memory_parent = memory_parent

    @classmethod
    def here(cls) -> Cgroups:
        """What this machine lets this process use."""
        own = own_folders(_text(SELF / "cgroup"), _text(SELF / "mountinfo"))
        parent = next(
            (own[name] for name in ("", *V1_HIERARCHIES) if name in own and _is_writable(own[name])), None
        )
        memory = own.get("memory")
        memory = memory if memory and memory != parent and _is_writable(memory) else None
        if parent is not None and parent == own.get(""):
            _use_delegation(parent)
        for folder in filter(None, (parent, memory)):
            sweep(folder)
        return cls(parent, memory)

    def make(self, name: str) -> Group | None:
        """A new group; None where there can't be any."""
        if self._parent is None:
            return None
        folders = [
            parent / f"{PREFIX}{name[:NAME_MAX]}" for parent in (self._parent, self._memory_parent) if parent
        ]
        made = []
        for folder in folders:
            with suppress(OSError):
                folder.mkdir()
                made.append(folder)
        if self._parent / folders[0].name not in made:
            return None
        return Group(folders[0], made[1] if len(made) > 1 else None)


def own_folders(cgroup: str, mountinfo: str) -> Mapping[str, Path]:
    """The folder of a process's group in each hierarchy, by controller; version 2 is the empty name.

    Args:
        cgroup: its /proc/PID/cgroup.
        mountinfo: its /proc/PID/mountinfo.
    """
    mounts = dict(_mounts(mountinfo))
    found = {}
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in controllers.split(",") if path else ():
            if name in mounts:
                shown, mounted = mounts[name]
                inner = path.removeprefix(shown.rstrip("/"))  # a container may show a part of the hierarchy
                found[name] = mounted / inner.lstrip("/")
    return found


def _mounts(mountinfo: str) -> Iterator[tuple[str, tuple[str, Path]]]:
    """What is mounted of each hierarchy, and where."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        where, (kind, *options) = before.split(" "), after.split(" ")
        if len(where) < 5 or not kind.startswith("cgroup"):
            continue
        names = [""] if kind == "cgroup2" else options[-1].split(",")
        yield from ((name, (where[3], Path(where[4]))) for name in names)


def _is_writable(folder: Path) -> bool:
    """Whether a group can be made there, by making one."""
    proof = folder / f"{PREFIX}proof-{os.getpid()}"
    try:
        proof.mkdir()
    except OSError:
        return False
    with suppress(OSError):
        proof.rmdir()
    return True


def sweep(parent: Path) -> None:
    """Removes groups that others made, who were killed before they could; the kernel keeps those that are in use."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > SWEPT_AFTER_S:
                folder.rmdir()


def _use_delegation(own: Path) -> None:
    """Makes groups below `own` count their memory, where systemd has handed `own` over to us."""
    delegated = False
    for name in _DELEGATED:
        with suppress(OSError):
            delegated = delegated or os.getxattr(own, name) == b"1"
    if not delegated:
        return
    with suppress(OSError):
        leaf = own / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text("0")
        (own / "cgroup.subtree_control").write_text("+memory +pids")


def _bottom_up(folder: Path) -> Iterator[Path]:
    for name, _, _ in os.walk(folder, topdown=False):
        yield Path(name)


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""
