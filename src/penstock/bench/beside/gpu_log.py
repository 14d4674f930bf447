"""The GPUs' log as `nvidia-smi --format=csv` writes it, so that what reads the one reads the other.

    nvidia-smi --query-gpu=timestamp,utilization.gpu,utilization.memory,memory.used,memory.total,temperature.gpu,\
power.draw --format=csv -l 1
"""

from __future__ import annotations

from datetime import datetime

from penstock.bench.beside.gpu import GpuReading

HEADER = (
    "timestamp, utilization.gpu [%], utilization.memory [%], memory.used [MiB], memory.total [MiB], "
    "temperature.gpu, power.draw [W]"
)
_ABSENT = "[N/A]"


def row(at: datetime, reading: GpuReading) -> str:
    """The line of one GPU.

    Args:
        at: local time, as nvidia-smi tells it.
    """
    stamp = f"{at:%Y/%m/%d %H:%M:%S}.{at.microsecond // 1000:03d}"
    cells = (
        _cell(reading.utilization_percent, "{:.0f} %"),
        _cell(reading.memory_utilization_percent, "{:.0f} %"),
        _cell(reading.memory_used_mib, "{:.0f} MiB"),
        _cell(reading.memory_total_mib, "{:.0f} MiB"),
        _cell(reading.temperature_c, "{:.0f}"),
        _cell(reading.power_w, "{:.2f} W"),
    )
    return ", ".join((stamp, *cells))


def _cell(value: float | None, form: str) -> str:
    return _ABSENT if value is None else form.format(value)
