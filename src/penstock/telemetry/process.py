"""This process, by the names under which every client library of Prometheus shows one.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics; Linux's /proc has them, see proc(5).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from penstock.telemetry.families import Family

_PROC = Path("/proc")

CPU = Family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")
RESIDENT = Family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
VIRTUAL = Family("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.")
START = Family(
    "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."
)
FDS = Family("process_open_fds", "gauge", "Number of open file descriptors.")
FDS_MAX = Family("process_max_fds", "gauge", "Maximum number of open file descriptors.")


def process_lines() -> Iterator[str]:
    """Its lines, as it is now.

    Raises:
        OSError: there is no /proc.
    """
    # what follows the name of the program, which may have blanks and braces of its own
    stat = (_PROC / "self/stat").read_text().rpartition(")")[2].split()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    user, system, since_boot, virtual_bytes, resident_pages = (int(stat[at]) for at in (11, 12, 19, 20, 21))
    yield from CPU.single((user + system) / ticks_per_s)
    yield from RESIDENT.single(resident_pages * os.sysconf("SC_PAGE_SIZE"))
    yield from VIRTUAL.single(virtual_bytes)
    yield from START.single(_boot_s() + since_boot / ticks_per_s)
    yield from FDS.single(len(list((_PROC / "self/fd").iterdir())))
    yield from FDS_MAX.single(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _boot_s() -> float:
    with (_PROC / "stat").open() as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith("btime "))
