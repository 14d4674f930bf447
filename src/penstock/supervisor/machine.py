"""This machine's memory, and what processes hold of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

# Limit, use and statistics of the cgroup that a container sees as its root, for versions 2 and 1.
_CGROUP_MEMORY = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
# Pages of files, which the kernel gives away where memory is short; version 1 counts those below with `total_`.
_RECLAIMABLE = frozenset({"active_file", "inactive_file", "total_active_file", "total_inactive_file"})


def host_free_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that a process could still get here: of the machine, and of the container where it is less."""
    free = int(psutil.virtual_memory().available)
    for limit_name, used_name, stat_name in _CGROUP_MEMORY:
        try:
            limit, used = (int((cgroup / name).read_text()) for name in (limit_name, used_name))
            cached = _cached_bytes((cgroup / stat_name).read_text())
        except (OSError, ValueError):  # no such version here, or "max"
            continue
        free = min(free, max(0, limit - max(0, used - cached)))
    return free


def _cached_bytes(stat: str) -> int:
    found = dict(line.split(maxsplit=1) for line in stat.splitlines())
    kept = [name for name in found if name in _RECLAIMABLE]
    whole = [name for name in kept if name.startswith("total_")]
    return sum(int(found[name]) for name in whole or kept)


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
