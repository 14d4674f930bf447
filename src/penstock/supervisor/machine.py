"""This machine's memory, and what processes hold of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from penstock.planner.hardware import Gpu, main_memory

# Limit, use and its parts of the cgroup that a container sees as its root, for versions 2 and 1.
_CGROUP_MEMORY = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
_CGROUPS = Path("/sys/fs/cgroup")
# The kernel gives these back before it refuses any: a file that was just downloaded fills them.
_RECLAIMABLE = frozenset({"inactive_file", "active_file", "total_inactive_file", "total_active_file"})


def host_free_bytes(cgroup: Path = _CGROUPS) -> int:
    """Memory that a process could still get here: of the machine, and of the container where it is less."""
    return _host_memory(cgroup)[1]


def main_memory_here(cgroup: Path = _CGROUPS) -> Gpu:
    """The memory of this machine or container, as the planner takes it."""
    total, free = _host_memory(cgroup)
    return main_memory(total, max(0, total - free))


def _host_memory(cgroup: Path) -> tuple[int, int]:
    """What there is, and what of it is free."""
    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for limit_name, used_name, parts_name in _CGROUP_MEMORY:
        try:
            limit, used = (int((cgroup / name).read_text()) for name in (limit_name, used_name))
        except (OSError, ValueError):  # no such version here, or "max"
            continue
        total = min(total, limit)
        free = min(free, max(0, limit - used + _reclaimable(cgroup / parts_name)))
    return total, free


def _reclaimable(parts: Path) -> int:
    try:
        rows = [line.split() for line in parts.read_text().splitlines()]
    except OSError:
        return 0
    found = {
        row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal() and row[0] in _RECLAIMABLE
    }
    hierarchical = {name: value for name, value in found.items() if name.startswith("total_")}
    return sum((hierarchical or found).values())


def family(pid: int) -> Sequence[int]:
    """The ids of a process and all below it; none where it is gone."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def private_bytes(pid: int) -> int:
    """Memory that the process shares with no other; 0 where that can't be seen."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return 0


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory that processes have in RAM; what they share counts for each."""
    total = 0
    for pid in pids:
        try:
            total += int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue
    return total
