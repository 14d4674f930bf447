"""Whether engines that load come on, seen from outside: what they write, read and hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from penstock.store.home import Home
from penstock.store.runtime import Registry

# Less than this is no progress: interpreters that only wait allocate and read a little as well.
STEP_BYTES = 16 * 1024 * 1024


def loading_progress(home: Home, registry: Registry) -> tuple[int, ...]:
    """A value that changes when a replica's log grows, or its processes have read or hold much more than before.

    Time on a CPU would prove nothing: GPUs that wait for each other in vain keep it busy.
    """
    return tuple(
        number
        for registration in registry.registrations()
        for number in (_log_bytes(home.log(registration.name)), *_steps(registration.pid))
    )


def _log_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _steps(pid: int) -> Iterator[int]:
    """For each process of a replica, how much it has read and holds."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            yield int(one.memory_info().rss + one.io_counters().read_chars) // STEP_BYTES
