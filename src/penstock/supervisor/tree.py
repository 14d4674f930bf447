"""The process tree of one start: everything that the part has become, whatever it forked, daemonised or renamed.

A control group holds all of it where there is one. Elsewhere it is followed: descendants, who shares a session
with one, and, as the last resort, who was started with its mark in the environment. Nothing is found by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from penstock.supervisor import procfs
from penstock.supervisor.cgroups import Group
from penstock.supervisor.procfs import Identity, Seen

MARK_VARIABLE = "PENSTOCK_INTERNAL_TREE"
KNOWN_MAX = 4096  # a tree that has forked more is followed by what lives of it


class Tree:
    """All processes of one start.

    Args:
        mark: what its processes have in their environment; no other's.
        group: its control group; None to follow its processes.
        known: processes that are known to be of it.
        everyone: all processes, as they were a moment ago.
    """

    def __init__(
        self,
        mark: str,
        group: Group | None = None,
        known: Iterable[Identity] = (),
        everyone: Callable[[], Mapping[int, Seen]] = procfs.everyone,
    ) -> None:
        self.mark = mark
        self.group = group
        self._everyone = everyone
        self.known: set[Identity] = set(known)

    @property
    def variable(self) -> str:
        """The mark as its processes have it."""
        return f"{MARK_VARIABLE}={self.mark}"

    @property
    def pids(self) -> frozenset[int]:
        """Of all that were ever seen of it."""
        return frozenset(one.pid for one in self.known)

    def begin(self, pid: int) -> None:
        """Its first process runs, and is not collected yet."""
        if self.group is not None and pid not in self.group.pids():  # it could not be put there
            self.group.remove()
            self.group = None
        first = procfs.seen(pid)
        if first is not None:
            self.known.add(first.identity)

    def look(self, *, thorough: bool = False) -> tuple[Seen, ...]:
        """Those that live now; all new ones are remembered.

        Args:
            thorough: looks at everybody now, and at their environments too, where no group holds the tree.
        """
        members = self._grouped() if self.group is not None else self._followed(thorough)
        if len(self.known) > KNOWN_MAX:
            self.known.clear()
        self.known.update(one.identity for one in members)
        return tuple(one for one in members if one.lives)

    def kill(self) -> tuple[Seen, ...]:
        """Kills all that live; returns them. A tree that forks meanwhile needs it again."""
        members = self.look(thorough=True)
        if self.group is None or not self.group.kill():
            for one in members:
                procfs.kill(one.identity)
        return members

    def _grouped(self) -> list[Seen]:
        assert self.group is not None
        return [found for pid in self.group.pids() if (found := procfs.seen(pid))]

    def _followed(self, thorough: bool) -> list[Seen]:
        everyone = procfs.everyone() if thorough else self._everyone()
        members = {
            one.pid: everyone[one.pid]
            for one in self.known
            if one.pid in everyone and everyone[one.pid].started == one.started
        }
        if thorough:
            marked = (pid for pid in everyone if procfs.environment_has(pid, self.variable))
            members |= {pid: everyone[pid] for pid in marked}
        while True:
            # A session can't be another's while a member is in it: its number is not given out meanwhile.
            sessions = {one.session for one in members.values()}
            more = {
                pid: one
                for pid, one in everyone.items()
                if pid not in members and (one.parent in members or one.session in sessions)
            }
            if not more:
                return list(members.values())
            members |= more
