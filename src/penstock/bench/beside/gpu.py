"""The NVIDIA GPUs of this machine as a load test reports them: in the units of `nvidia-smi`.

What one GPU does not support is None, and the rest of it is read.
"""

from __future__ import annotations

import time

import msgspec

from penstock.telemetry.gpu_driver import Driver
from penstock.telemetry.gpu_driver import GpuReading as Reading

MIB = 1024.0 * 1024.0
WANTED = frozenset(
    {
        *("utilization_ratio", "memory_used_bytes", "temperature_celsius", "power_watts", "clock_hertz"),
        "energy_joules",
    }
)
"""What is asked for beside a load: each question is answered by a call that waits for the driver."""


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


class Gpus:
    """The GPUs of this machine. All its calls wait for the driver, for up to some ten milliseconds.

    Args:
        driver: of them; closed by `close`.

    Raises:
        NoGpuError: there is none.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        sight = driver.read()
        if sight.trouble is not None:
            raise sight.trouble
        self.names = [gpu.name or "GPU" for gpu in sight.gpus]
        self._uuids = [gpu.uuid for gpu in sight.gpus]

    def read(self) -> list[GpuReading]:
        """All GPUs, now; one that is lost tells nothing."""
        found = {gpu.uuid: gpu for gpu in self._driver.read().gpus}
        return [_reading(found.get(uuid)) for uuid in self._uuids]

    def close(self) -> None:
        """Lets go of the driver."""
        self._driver.close()


def _reading(gpu: Reading | None) -> GpuReading:
    if gpu is None:
        return GpuReading()
    return GpuReading(
        utilization_percent=_scaled(gpu.number("utilization_ratio"), 100.0),
        memory_utilization_percent=_scaled(gpu.number("memory_utilization_ratio"), 100.0),
        memory_used_mib=_scaled(gpu.number("memory_used_bytes"), 1 / MIB),
        memory_total_mib=_scaled(gpu.number("memory_total_bytes"), 1 / MIB),
        temperature_c=gpu.number("temperature_celsius"),
        power_w=gpu.number("power_watts"),
        sm_clock_mhz=_scaled(gpu.number("clock_hertz", "sm"), 1e-6),
        memory_clock_mhz=_scaled(gpu.number("clock_hertz", "memory"), 1e-6),
        energy_mj=_scaled(gpu.number("energy_joules"), 1000.0),
    )


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def local_gpus() -> Gpus:
    """The GPUs of this machine.

    Raises:
        NoGpuError: there is none, or no library to read it with.
    """
    return Gpus(Driver(time.monotonic, wanted=WANTED))
