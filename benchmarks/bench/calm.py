"""Whether a measurement had the machine for itself: what others used of it meanwhile, by /proc/stat."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Of the machine; more than this shifts times by milliseconds.
OTHERS_SHARE_MAX = 0.15
_LOOK_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Processor seconds that the machine has worked since its start, on all cores."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def process_cpu_s(pid: int) -> float:
    """Processor seconds of one process; 0 where it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def share_of(used_s: float, wall_s: float) -> float:
    """The part of the machine, 0 to 1, that so many processor seconds are."""
    return max(0.0, min(1.0, used_s / (wall_s * (os.cpu_count() or 1)))) if wall_s > 0 else 0.0


def wait_for_calm(patience_s: float) -> None:
    """Returns once the machine is nearly idle, or when patience ends."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        before_s, begun_s = busy_s(), time.monotonic()
        time.sleep(_LOOK_S)
        if share_of(busy_s() - before_s, time.monotonic() - begun_s) <= OTHERS_SHARE_MAX:
            return
