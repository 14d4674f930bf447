"""The main memory of this machine, or of the container that this process is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from penstock.planner.hardware import Gpu, main_memory

CGROUPS = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Of cgroup v2 and v1, as a container sees its own: the most that it may have, and what it has."""


def detect_memory(cgroups: Path = CGROUPS) -> Gpu:
    """What the planner must know of it: how much there is, and how much of it is taken."""
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for limit, used in _limits(cgroups):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return main_memory(total, total - free)


def _limits(cgroups: Path) -> Iterator[tuple[int, int]]:
    for limit, used in LIMITS:
        with suppress(OSError, ValueError):  # there is none such, or it says "max"
            yield int((cgroups / limit).read_text()), int((cgroups / used).read_text())
