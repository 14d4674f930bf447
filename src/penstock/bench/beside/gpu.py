"""The NVIDIA GPUs of this machine, read through NVML.

`pynvml` (of nvidia-ml-py, an optional dependency) is imported when GPUs are asked for, and never before. What one GPU
does not support is None, and the rest of it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from penstock.core.errors import PenstockError

MIB = 1024.0 * 1024.0
# No machine has more; a driver that claims so is not asked further.
GPUS_MAX = 64


class NoGpuError(PenstockError):
    """There is no GPU to read here; says why."""

    code = "no_gpu"


class GpuReading(msgspec.Struct, frozen=True):
    """One GPU at one time; what it does not tell is None."""

    utilization_percent: float | None = None
    memory_utilization_percent: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    energy_mj: float | None = None  # since the driver was loaded


class Nvml:
    """The GPUs of this machine. All its calls wait for the driver, for up to some ten milliseconds.

    Args:
        library: `pynvml`, or what has its functions; it is initialised here, and shut down by `close`.

    Raises:
        NoGpuError: there is none.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise NoGpuError(
                f"NVML: {error}", hint="no NVIDIA driver on this machine? `nvidia-smi` tells"
            ) from None
        try:
            number = min(library.nvmlDeviceGetCount(), GPUS_MAX)
            self._handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(number)]
        except library.NVMLError as error:
            self.close()
            raise NoGpuError(f"NVML: {error}", hint="`nvidia-smi` tells more") from None
        if not self._handles:
            self.close()
            raise NoGpuError("NVML: the driver is there, and no GPU", hint="is one handed to this container?")
        self.names = [self._name(handle) for handle in self._handles]

    def read(self) -> list[GpuReading]:
        """All GPUs, now."""
        return [self._read(handle) for handle in self._handles]

    def close(self) -> None:
        """Lets go of the driver."""
        self._told(self._library.nvmlShutdown)

    def _read(self, handle: Any) -> GpuReading:
        nvml, told = self._library, self._told
        rates = told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        memory = told(lambda: self._memory(handle))
        power_mw = told(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return GpuReading(
            utilization_percent=rates and float(rates.gpu),
            memory_utilization_percent=rates and float(rates.memory),
            memory_used_mib=memory and memory.used / MIB,
            memory_total_mib=memory and memory.total / MIB,
            temperature_c=told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=None if power_mw is None else power_mw / 1000.0,
            sm_clock_mhz=told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            energy_mj=told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
        )

    def _memory(self, handle: Any) -> Any:
        """As nvidia-smi tells it: without what the driver keeps for itself, where the library can tell these apart."""
        version = getattr(self._library, "nvmlMemory_v2", None)
        if version is not None:
            told = self._told(lambda: self._library.nvmlDeviceGetMemoryInfo(handle, version=version))
            if told is not None:
                return told
        return self._library.nvmlDeviceGetMemoryInfo(handle)

    def _name(self, handle: Any) -> str:
        name = self._told(lambda: self._library.nvmlDeviceGetName(handle))
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "GPU")

    def _told(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._library.NVMLError:  # not supported by this GPU, or lost amid the run
            return None


def local_gpus() -> Nvml:
    """The GPUs of this machine.

    Raises:
        NoGpuError: there is none, or no library to read it with.
    """
    try:
        library = import_module("pynvml")
    except ImportError:
        raise NoGpuError("nvidia-ml-py is not installed", hint="pip install nvidia-ml-py") from None
    return Nvml(library)
