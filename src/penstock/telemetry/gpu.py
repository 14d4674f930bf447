"""The GPUs of this machine, as NVIDIA's driver tells of them (NVML, through nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from penstock.core.errors import PenstockError
from penstock.planner.hardware import MIB, Gpu, known_gpu

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
DEVICES_MAX = 64
RESERVED_MIB = 1024
"""What a driver counts as used on an idle GPU is less."""


class NoGpuError(PenstockError):
    """There is no GPU to be found here."""

    code = "no_gpu"


def detect(environ: Mapping[str, str], nvml: Any = None) -> tuple[Gpu, ...]:
    """The GPUs that a program started here could use, at least one.

    Args:
        environ: of this process; `CUDA_VISIBLE_DEVICES` hides GPUs.
        nvml: the module `pynvml`; found by itself by default.

    Raises:
        NoGpuError: the module or the driver is missing, or there is no GPU; says which.
    """
    nvml = nvml or _module()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NoGpuError(f"no NVIDIA driver answers here: {error}", hint=_OTHERWISE) from error
    try:
        found = tuple(_devices(nvml, environ.get(VISIBLE_VARIABLE)))
    except nvml.NVMLError as error:
        raise NoGpuError(f"the NVIDIA driver does not tell of its GPUs: {error}", hint=_OTHERWISE) from error
    finally:
        nvml.nvmlShutdown()
    if not found:
        hidden = f" ({VISIBLE_VARIABLE}={environ[VISIBLE_VARIABLE]})" if VISIBLE_VARIABLE in environ else ""
        raise NoGpuError(f"there is no GPU here{hidden}", hint=_OTHERWISE)
    return found


_OTHERWISE = "name GPUs with --gpu, as in --gpu 2xA6000"


def _module() -> Any:
    try:
        return import_module("pynvml")
    except ImportError as error:
        raise NoGpuError(
            "GPUs can't be detected: nvidia-ml-py is not installed",
            hint=f"pip install nvidia-ml-py, or {_OTHERWISE}",
        ) from error


def _devices(nvml: Any, visible: str | None) -> Iterator[Gpu]:
    shown = None if visible is None else [word.strip() for word in visible.split(",")]
    for index in range(min(DEVICES_MAX, nvml.nvmlDeviceGetCount())):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if shown is None or str(index) in shown or _text(nvml.nvmlDeviceGetUUID(handle)) in shown:
            yield _gpu(nvml, handle)


def _gpu(nvml: Any, handle: Any) -> Gpu:
    name, memory = _text(nvml.nvmlDeviceGetName(handle)), nvml.nvmlDeviceGetMemoryInfo(handle)
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


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
