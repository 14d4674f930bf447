"""Who holds the memory of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.telemetry.nvml import Absence, told

PROCESSES_MAX = 1024

_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)


def processes(nvml: Any, handle: Any) -> tuple[dict[int, int] | None, Absence | None]:
    """The bytes that each process holds of one GPU, by its id as the kernel of the host counts them.

    A process that computes and draws is in two lists, with all its memory in both; one that has several MIG
    instances has a part in each. Where the driver does not tell how much it is, it is 0.

    Returns:
        None, and why, where the driver tells of no processes at all.

    Raises:
        DriverGoneError: the driver has stopped answering.
    """
    lists = [told(nvml, _listed, nvml, ask, handle) for ask in _LISTS]
    if all(found is None for found, _ in lists):
        return None, lists[0][1]
    parts: dict[tuple[int, int, int], int] = {}
    for key, held in _entries(lists):
        parts[key] = max(parts.get(key, 0), held)
    holders: dict[int, int] = {}
    for (pid, _, _), held in parts.items():
        holders[pid] = holders.get(pid, 0) + held
    return holders, None


def _listed(nvml: Any, ask: str, handle: Any) -> list[Any]:
    found: list[Any] = getattr(nvml, ask)(handle)
    return found[:PROCESSES_MAX]


def _entries(
    lists: list[tuple[list[Any] | None, Absence | None]],
) -> Iterator[tuple[tuple[int, int, int], int]]:
    for found, _ in lists:
        for one in found or ():
            instance = getattr(one, "gpuInstanceId", 0), getattr(one, "computeInstanceId", 0)
            yield (one.pid, *instance), one.usedGpuMemory or 0
