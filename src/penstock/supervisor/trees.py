"""The trees of this supervisor, and what an earlier one has left behind.

Each tree is on record from before its first process until its last is gone. So whoever runs the same home next
finds what a killed supervisor left, by group, by process and start time, or by mark, and ends it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from penstock.store.home import FOLDER_MODE, file_name, write_private
from penstock.supervisor import procfs
from penstock.supervisor.cgroups import Cgroups, Group
from penstock.supervisor.procfs import Identity
from penstock.supervisor.tree import Tree

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
EVERYONE_FOR_S = 1.0
GONE_WITHIN_S = 30.0  # a killed process ends when it leaves the kernel, which a GPU's driver can delay
GONE_LOOK_EVERY_S = 0.01
GONE_LOOK_EVERY_S_MAX = 0.2
LEFT_KINDLY_S = 2.0  # what lost its supervisor was asked to end by the kernel, then
CLEANUP_WITHIN_S = 30.0
_NOTHING_THERE = "no such container"  # docker's and podman's words
NAME_MAX = 100  # of a part, in the name of its control group


class TreeRecord(msgspec.Struct, frozen=True):
    """What is known of a tree, on disk.

    Args:
        part: its name.
        model: whose replica it is; empty for a gateway.
        boot: the machine's run, beyond which no process lives.
        known: process ids with their start times.
        group: folders of its control group, the first of them with its processes.
        cleanup: a command that ends what is in no process of ours.
    """

    part: str
    model: str
    boot: str
    mark: str
    known: tuple[tuple[int, int], ...] = ()
    group: tuple[str, ...] = ()
    cleanup: tuple[str, ...] = ()


class Trees:
    """Makes trees, keeps them on record, and collects what they orphan.

    Args:
        folder: of the records; None keeps none.
        cgroups: where groups can be made.

    Attributes:
        direct: processes that this one has started and not collected yet.
    """

    def __init__(self, folder: Path | None = None, cgroups: Cgroups | None = None) -> None:
        self._folder = folder
        self._cgroups = cgroups or Cgroups()
        self._adopts = False
        self.direct: set[int] = set()
        self._planted: dict[str, PlantedTree] = {}
        self._dead: set[Identity] = set()
        self._boot = procfs.boot()
        self._seen: Mapping[int, procfs.Seen] = {}
        self._seen_s = -EVERYONE_FOR_S

    @classmethod
    def here(cls, folder: Path) -> Trees:
        """Those of this process, which gets every orphan of its trees from now on."""
        trees = cls(folder, Cgroups.here())
        trees._adopts = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        return trees

    def plant(self, part: str, model: str = "", cleanup: tuple[str, ...] = ()) -> PlantedTree:
        """A tree for the next start of `part`, on record."""
        mark = secrets.token_hex(8)
        group = self._cgroups.make(f"{file_name(part)[:NAME_MAX]}-{mark}")
        self._planted[part] = planted = PlantedTree(
            self, Tree(mark, group, everyone=self._everyone), part, model, cleanup
        )
        self.keep(planted)
        return planted

    def pids(self) -> frozenset[int]:
        """Of all processes that were seen of any tree."""
        return frozenset(pid for planted in self._planted.values() for pid in planted.tree.pids)

    def keep(self, planted: PlantedTree) -> None:
        """Writes what is known of a tree; where there is no room for it, what was written before stays."""
        if self._folder is None:
            return
        tree, group = planted.tree, planted.tree.group
        record = TreeRecord(
            part=planted.part,
            model=planted.model,
            boot=self._boot,
            mark=tree.mark,
            known=tuple(sorted((one.pid, one.started) for one in tree.known)),
            group=tuple(str(folder) for folder in group.folders) if group else (),
            cleanup=planted.cleanup,
        )
        with suppress(OSError):  # a full disk ends no engine
            self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            write_private(self._path(planted.part), msgspec.json.encode(record))

    def forget(self, part: str) -> None:
        """Its tree is gone."""
        self._planted.pop(part, None)
        if self._folder is not None:
            with suppress(
                OSError
            ):  # a broken disk ends no engine; who finds the record finds nothing that lives
                self._path(part).unlink(missing_ok=True)

    def collect(self) -> None:
        """Takes the dead that were adopted out of the table of processes.

        One that is found dead twice is nobody else's to wait for.
        """
        if not self._adopts:
            return
        dead = set()
        for pid in procfs.own_children():
            one = procfs.seen(pid) if pid not in self.direct else None
            if one is not None and not one.lives:
                if one.identity in self._dead:
                    with suppress(OSError):
                        os.waitpid(pid, os.WNOHANG)
                dead.add(one.identity)
        self._dead = dead

    def end_left(self, model: str, say: Callable[[str], None], environ: Mapping[str, str]) -> tuple[str, ...]:
        """Ends what an earlier supervisor has left of `model`, or of its gateway; for who holds the lock.

        Returns the names of the parts that it had.
        """
        parts = []
        for record in self._records():
            if record.model == model:
                if record.boot == self._boot:
                    _end(record, say, environ)
                self.forget(record.part)
                parts.append(record.part)
        return tuple(parts)

    def models_left(self) -> frozenset[str]:
        """The models of which something is on record; an empty name for a gateway."""
        return frozenset(record.model for record in self._records())

    def _everyone(self) -> Mapping[int, procfs.Seen]:
        """All processes, looked at once for all trees: where there are thousands that takes a while."""
        now_s = time.monotonic()
        if now_s - self._seen_s >= EVERYONE_FOR_S:
            self._seen, self._seen_s = procfs.everyone(), now_s
        return self._seen

    def _records(self) -> list[TreeRecord]:
        found = []
        for path in sorted(self._folder.glob("*.json")) if self._folder else ():
            with suppress(OSError, ValueError):  # msgspec's are ValueErrors, and so is what is no UTF-8
                found.append(msgspec.json.decode(path.read_bytes(), type=TreeRecord))
        return found

    def _path(self, part: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{file_name(part)}.json"


class PlantedTree:
    """A tree and its record. Made by `Trees.plant`."""

    def __init__(self, trees: Trees, tree: Tree, part: str, model: str, cleanup: tuple[str, ...]) -> None:
        self.tree = tree
        self.part = part
        self.model = model
        self.cleanup = cleanup
        self._trees = trees

    def begin(self, pid: int) -> None:
        """Its first process runs."""
        self._trees.direct.add(pid)
        self.tree.begin(pid)
        self._trees.keep(self)

    def look(self) -> tuple[procfs.Seen, ...]:
        """Those that live; new ones go on record."""
        before = set(self.tree.known)
        members = self.tree.look()
        if self.tree.known != before and self.tree.group is None:  # a group says more than a list
            self._trees.keep(self)
        self._trees.collect()
        return members

    def collected(self, pid: int) -> None:
        """Its first process was waited for."""
        self._trees.direct.discard(pid)

    async def gone(self, within_s: float = GONE_WITHIN_S) -> tuple[int, ...]:
        """Kills what lives until nothing does; the ids of those that the kernel does not let go in time."""
        clock = asyncio.get_running_loop().time
        end_s, wait_s = clock() + within_s, GONE_LOOK_EVERY_S
        while (members := self.tree.kill()) and clock() < end_s:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, GONE_LOOK_EVERY_S_MAX)
        return tuple(one.pid for one in members)

    def uproot(self) -> None:
        """Takes it off the record, and its group away."""
        if self.tree.group is not None:
            self.tree.group.remove()
        self._trees.forget(self.part)


def clean_up(argv: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Runs the command that ends what a tree may leave behind; what went wrong, or nothing."""
    if not argv:
        return ""
    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLEANUP_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{argv[0]} could not clean up: {error}"
    words = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
    if done.returncode == 0 or _NOTHING_THERE in words.lower():
        return ""
    return f"{argv[0]} could not clean up: {words.splitlines()[-1]}"


def _end(record: TreeRecord, say: Callable[[str], None], environ: Mapping[str, str]) -> None:
    group = Group(Path(record.group[0]), *map(Path, record.group[1:2])) if record.group else None
    if group is not None and not (group.path.is_dir() and group.path.name.endswith(record.mark)):
        group = None
    tree = Tree(record.mark, group, (Identity(pid, started) for pid, started in record.known))
    left = tree.look(thorough=True)
    if left:
        pids = ", ".join(str(one.pid) for one in left)
        say(f"{record.part}: an earlier supervisor has left processes behind (pid {pids}); they are ended")
    end_s = time.monotonic() + LEFT_KINDLY_S
    while tree.look(thorough=True) and time.monotonic() < end_s:
        time.sleep(GONE_LOOK_EVERY_S_MAX)
    end_s = time.monotonic() + GONE_WITHIN_S
    while (members := tree.kill()) and time.monotonic() < end_s:
        time.sleep(GONE_LOOK_EVERY_S)
    if members:
        pids = ", ".join(str(one.pid) for one in members)
        say(f"{record.part}: pid {pids} can't be ended; it may hold memory that the next start needs")
    if group is not None:
        group.remove()
    if trouble := clean_up(record.cleanup, environ):
        say(f"{record.part}: {trouble}")
