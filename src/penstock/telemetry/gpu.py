"""The GPUs of this machine at one moment: what can be used, what is free, and who holds their memory.

Indices are NVML's: in the order of the PCI bus. CUDA counts in the same order only with
`CUDA_DEVICE_ORDER=PCI_BUS_ID`. What watches GPUs over time is `telemetry/gpu_driver.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.planner.hardware import MIB, Gpu, known_gpu
from penstock.telemetry import nvml as library
from penstock.telemetry.gpu_processes import processes
from penstock.telemetry.nvml import NoGpuError, Reason

__all__ = ["GpuMemory", "NoGpuError", "detect", "free_memory", "holders", "memory"]

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
RESERVED_MIB = 1024
"""What a driver counts as used on an idle GPU is less."""

_OTHERWISE = "name GPUs with --gpu, as in --gpu 2xA6000"


def detect(environ: Mapping[str, str], nvml: Any = None) -> tuple[Gpu, ...]:
    """The GPUs that a program started here could use, at least one.

    Args:
        environ: of this process; `CUDA_VISIBLE_DEVICES` hides GPUs.
        nvml: the module `pynvml`; found by itself by default.

    Raises:
        NoGpuError: the module or the driver is missing, or there is no GPU; says which.
    """
    visible = environ.get(VISIBLE_VARIABLE)
    try:
        with library.opened(nvml) as found:
            told = [library.told(found, _gpu, found, handle)[0] for _, handle in _visible(found, visible)]
    except NoGpuError as error:
        error.hint = f"{error.hint}; or {_OTHERWISE}"
        raise
    gpus = tuple(gpu for gpu in told if gpu is not None)
    if not gpus:
        hidden = "none that answers" if visible is None else f"{VISIBLE_VARIABLE}={visible}"
        raise NoGpuError(f"there is no GPU here ({hidden})", reason=Reason.NO_GPU, hint=_OTHERWISE)
    return gpus


def free_memory(environ: Mapping[str, str], nvml: Any = None) -> dict[int, int]:
    """The bytes that nobody holds of each GPU that a program started here could use, by its index.

    Raises:
        NoGpuError: there is none to ask.
    """
    with library.opened(nvml) as found:
        told = {
            index: library.told(found, _free, found, handle)[0]
            for index, handle in _visible(found, environ.get(VISIBLE_VARIABLE))
        }
    return {index: free for index, free in told.items() if free is not None}


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """The memory of one GPU, and how much of it each process holds, where the driver tells."""

    index: int
    total_bytes: int
    free_bytes: int
    held_bytes: Mapping[int, int]


def memory(environ: Mapping[str, str], nvml: Any = None) -> tuple[GpuMemory, ...]:
    """The memory of each GPU that a program started here could use.

    Raises:
        NoGpuError: there is none to ask.
    """
    with library.opened(nvml) as found:
        told = []
        for index, handle in _visible(found, environ.get(VISIBLE_VARIABLE)):
            whole, _ = library.told(found, found.nvmlDeviceGetMemoryInfo, handle)
            if whole is not None:
                held, _ = processes(found, handle)
                told.append(GpuMemory(index, whole.total, whole.free, held or {}))
    return tuple(told)


def holders(gpus: Iterable[int], nvml: Any = None) -> dict[int, int]:
    """The processes that hold memory of these GPUs, and how many bytes of them all together.

    A process of another PID namespace (a container) may be missing, or have an id that means another one here.

    Args:
        gpus: indices; one that is not there holds nothing.

    Raises:
        NoGpuError: there is none to ask, or one of them does not tell.
    """
    wanted = set(gpus)
    held: dict[int, int] = {}
    with library.opened(nvml) as found:
        for index, handle in enumerate(library.handles(found)):
            if index not in wanted:
                continue
            of_gpu, absence = (None, library.Absence.LOST) if handle is None else processes(found, handle)
            if of_gpu is None:
                raise NoGpuError(f"GPU {index} does not tell who holds its memory: {absence}")
            for pid, held_bytes in of_gpu.items():
                held[pid] = held.get(pid, 0) + held_bytes
    return held


def _visible(nvml: Any, visible: str | None) -> Iterator[tuple[int, Any]]:
    shown = None if visible is None else [word.strip() for word in visible.split(",")]
    for index, handle in enumerate(library.handles(nvml)):
        if handle is None:
            continue
        uuid, _ = library.told(nvml, nvml.nvmlDeviceGetUUID, handle)
        if shown is None or str(index) in shown or library.text(uuid or "") in shown:
            yield index, handle


def _free(nvml: Any, handle: Any) -> int:
    free: int = nvml.nvmlDeviceGetMemoryInfo(handle).free
    return free


def _gpu(nvml: Any, handle: Any) -> Gpu:
    name, memory = library.text(nvml.nvmlDeviceGetName(handle)), nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    known, used = known_gpu(name), memory.used // MIB
    return Gpu(
        name=known.name if known else name.removeprefix("NVIDIA "),
        memory_mib=memory.total // MIB,
        bandwidth_gb_s=known.bandwidth_gb_s if known else 0,
        capability=10 * major + minor,
        source="driver",
        used_mib=used if used > RESERVED_MIB else 0,
    )
