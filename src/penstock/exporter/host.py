"""The machine beside its GPUs: processors, memory, disks, network, as the kernel tells of them (psutil, /proc).

What can't be read (an old kernel, a container without /proc/pressure) is left out, each by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from penstock.telemetry.families import Families, Family

SOURCE = "host"
INTERFACES_MAX = 32
SHM = Path("/dev/shm")  # noqa: S108 - looked at, never written to


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"penstock_host_{name}", "gauge", text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"penstock_host_{name}_total", "counter", text, labels)


CPU_SECONDS = _counter("cpu_seconds", "Time of all processors, by what it went to.", "mode")
CPUS = _gauge("cpus", "Processors that this process may use.")
LOAD = _gauge("load", "Processes that run or wait for the disk, on average.", "over")
PRESSURE = _counter("pressure_seconds", "Time in which something waited for it.", "resource")
MEMORY_TOTAL = _gauge("memory_total_bytes", "Memory.")
MEMORY_AVAILABLE = _gauge("memory_available_bytes", "Memory that can be had without swapping.")
SWAP_USED = _gauge("swap_used_bytes", "Memory that was swapped out.")
SWAPPED = _counter("swapped_bytes", "Memory moved to and from the disk.", "direction")
OOM_KILLS = _counter("oom_kills", "Processes that the kernel killed for want of memory.")
DISK_TOTAL = _gauge("disk_total_bytes", "The disk under a place.", "place")
DISK_FREE = _gauge("disk_free_bytes", "What we may still write there.", "place")
INODES_FREE = _gauge("disk_free_inodes", "Files that may still be made there.", "place")
NETWORK = _counter("network_bytes", "Sent and received.", "interface", "direction")
NETWORK_ERRORS = _counter("network_errors", "Packets that were damaged or dropped.", "interface", "direction")
FILES_OPEN = _gauge("file_descriptors_open", "Open files of the whole machine.")
FILES_MAX = _gauge("file_descriptors_max", "How many there may be.")
BOOT = _gauge("boot_time_seconds", "When it was started, Unix time.")

METRICS = (
    CPU_SECONDS, CPUS, LOAD, PRESSURE, MEMORY_TOTAL, MEMORY_AVAILABLE, SWAP_USED, SWAPPED, OOM_KILLS, DISK_TOTAL,
    DISK_FREE, INODES_FREE, NETWORK, NETWORK_ERRORS, FILES_OPEN, FILES_MAX, BOOT,
)  # fmt: skip


def host_families(places: Mapping[str, Path], proc: Path = Path("/proc")) -> Families:
    """All that can be read now.

    Args:
        places: folders whose disks are shown, by what they are for; one that is not there yet is where it would be.
        proc: the kernel's folder.
    """
    families = Families()
    for part in (_processors, _memory, _network, _kernel):
        _as_far_as_it_goes(families, part, proc)
    for name, place in {**places, "shm": SHM}.items():
        _as_far_as_it_goes(families, _disk, name, existing(place))
    return families


def _as_far_as_it_goes(families: Families, part: Callable[..., None], *args: object) -> None:
    try:
        part(families, *args)
    except (OSError, ValueError, LookupError, AttributeError, NotImplementedError):
        return  # this kernel, or this container, does not tell


def existing(place: Path) -> Path:
    """The nearest folder above that is there, and may be seen, which `Path.is_dir` would not tell but raise."""
    return next((path for path in (place, *place.parents) if os.path.isdir(path)), Path("/"))  # noqa: PTH112


def _processors(families: Families, proc: Path) -> None:
    times = psutil.cpu_times()._asdict()
    for mode in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"):
        if mode in times:
            families.add(CPU_SECONDS, times[mode], mode)
    families.add(CPUS, len(os.sched_getaffinity(0)))
    for over, value in zip(("1m", "5m", "15m"), os.getloadavg(), strict=True):
        families.add(LOAD, value, over)
    for resource in ("cpu", "memory", "io"):
        _as_far_as_it_goes(families, _pressure, proc / "pressure" / resource)


def _pressure(families: Families, path: Path) -> None:
    some = path.read_text().splitlines()[0]
    families.add(PRESSURE, int(some.rpartition("total=")[2]) / 1e6, path.name)


def _memory(families: Families, _: Path) -> None:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    families.add(MEMORY_TOTAL, memory.total)
    families.add(MEMORY_AVAILABLE, memory.available)
    families.add(SWAP_USED, swap.used)
    families.add(SWAPPED, swap.sin, "in")
    families.add(SWAPPED, swap.sout, "out")


def _disk(families: Families, name: str, place: Path) -> None:
    found = os.statvfs(place)
    families.add(DISK_TOTAL, found.f_blocks * found.f_frsize, name)
    families.add(DISK_FREE, found.f_bavail * found.f_frsize, name)
    families.add(INODES_FREE, found.f_favail, name)


def _network(families: Families, _: Path) -> None:
    found = psutil.net_io_counters(pernic=True)
    names = [name for name in sorted(found) if not name.startswith("veth")]  # a container's end of a cable
    for name in names[:INTERFACES_MAX]:
        of = found[name]
        families.add(NETWORK, of.bytes_recv, name, "received")
        families.add(NETWORK, of.bytes_sent, name, "sent")
        families.add(NETWORK_ERRORS, of.errin + of.dropin, name, "received")
        families.add(NETWORK_ERRORS, of.errout + of.dropout, name, "sent")


def _kernel(families: Families, proc: Path) -> None:
    families.add(BOOT, psutil.boot_time())
    opened, _, most = (proc / "sys" / "fs" / "file-nr").read_text().split()
    families.add(FILES_OPEN, int(opened))
    families.add(FILES_MAX, int(most))
    counts = dict(line.split(maxsplit=1) for line in (proc / "vmstat").read_text().splitlines())
    families.add(OOM_KILLS, int(counts["oom_kill"]))
