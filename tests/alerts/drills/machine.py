"""GPUs, the machine, and the exporter that reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.alerts.drill import Broken, Drill, Lane
from tests.alerts.stack import Stack, namespace, restart_exporter

SHM = Path("/dev/shm")
CGROUPS = Path("/sys/fs/cgroup")
OOM_LIMIT_BYTES = 64 * 2**20
_EATS = f"import os; bytearray({4 * OOM_LIMIT_BYTES})"


def told(gpu: int = 0, **changes: Any) -> Callable[[Stack], Broken]:
    """A GPU that tells something else."""
    return lambda stack: stack.gpus.told(gpu, **changes)


def slowed_down(stack: Stack) -> Broken:
    """It is hot, and slows itself down for half of the time."""
    field = "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN"
    return stack.gpus.growing(
        lambda step: {
            "temperature_c": 91,
            "throttle": ["HwThermalSlowdown"],
            "fields": {field: step * 250_000_000},
        }
    )


def bad_links(stack: Stack) -> Broken:
    """What goes over its links has to be repeated."""
    field = "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"
    return stack.gpus.growing(lambda step: {"pcie_replays": 10 * step, "fields": {field: step}})


WEARS_OUT: dict[str, Any] = {
    "ecc_uncorrected": 3,
    "remapped": (12, 1, 1, 1),
    "xids": [79, 31],
    "processes": {str(os.getpid()): 20 * 2**30},
    "fields": {"NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 1},
}


@contextmanager
def exporter_killed(stack: Stack) -> Iterator[None]:
    """The exporter is killed."""
    stack.exporter.kill()
    stack.exporter.wait()
    yield
    restart_exporter(stack)


@contextmanager
def disk_filled(stack: Stack, folder: Callable[[Stack], Path]) -> Iterator[None]:
    """A small file system is filled to the brim, all but a twentieth."""
    path = stack.in_exporter(folder(stack)) / "filled"
    size = os.statvfs(path.parent).f_blocks * os.statvfs(path.parent).f_frsize
    path.write_bytes(bytes(size * 19 // 20))
    yield
    path.unlink()


@contextmanager
def out_of_memory(_: Stack) -> Iterator[None]:
    """A process takes more than its control group may have, and the kernel kills it."""
    group = _memory_group()
    group.mkdir()
    try:
        limit = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
        (group / limit).write_text(str(OOM_LIMIT_BYTES))
        inside = f'echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "{_EATS}"'
        done = subprocess.run(["sh", "-c", inside], capture_output=True, timeout=60)
        assert done.returncode == -9, done
        yield
    finally:
        group.rmdir()


def _memory_group() -> Path:
    own = f"penstock-drill-{os.getpid()}"
    return CGROUPS / "memory" / own if (CGROUPS / "memory").is_dir() else CGROUPS / own


def lacks_namespace() -> str:
    """Why no file system can be filled that is the exporter's alone."""
    return "" if namespace() else "no mount namespace can be made"


def lacks_cgroups() -> str:
    """Why no process can be starved alone."""
    return "" if os.access(_memory_group().parent, os.W_OK) else "control groups can't be made"


GPU: Lane = (
    Drill("an overheated GPU", slowed_down, ("GpuHot", "GpuThrottled")),
    Drill(
        "a GPU that wears out",
        told(**WEARS_OUT),
        (
            *("GpuEccUncorrected", "GpuRowRemapFailed", "GpuRowRemapPending", "GpuXidFatal"),
            *("GpuXidApplication", "GpuRecoveryNeeded", "GpuOrphanMemory", "GpuRemapGrowth"),
        ),
    ),
    Drill("a GPU with bad links", bad_links, ("GpuNvlinkErrors", "GpuPcieReplays")),
    Drill("little memory left on a GPU", told(used_mib=80_500), ("GpuMemoryLow",)),
)
IDLE_GPU: Lane = (
    Drill(
        "a GPU that holds a model and does nothing",
        told(gpu=1, used_mib=60_000),
        ("GpuIdleCost",),
        patience_s=400.0,
    ),
)
DRIVER: Lane = (
    Drill("a GPU that fell off its bus", told(lost=True), ("GpuLost",), ("GpuRecoveryNeeded",)),
    Drill(
        "a driver that is gone",
        lambda stack: stack.gpus.machine(error="NVML_ERROR_DRIVER_NOT_LOADED"),
        ("GpuDriverGone",),
    ),
    Drill(
        "a driver that hangs",
        lambda stack: stack.gpus.machine(hangs=True),
        ("ExporterBehind",),
        ("GpuDriverGone", "GpuLost"),
        patience_s=200.0,
    ),
    Drill("the exporter killed", exporter_killed, ("ExporterDown",)),
)
SHARED_MEMORY: Lane = (
    Drill(
        "shared memory that is full",
        partial(disk_filled, folder=lambda _: SHM),
        ("HostShmLow",),
        lacks=lacks_namespace,
    ),
    Drill("a process without memory", out_of_memory, ("HostOomKill",), lacks=lacks_cgroups),
)
DISK: Lane = (
    Drill(
        "a disk for models that is full",
        partial(disk_filled, folder=lambda stack: stack.model_cache),
        ("HostDiskLow",),
        lacks=lacks_namespace,
    ),
)
