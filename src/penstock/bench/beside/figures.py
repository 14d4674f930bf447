"""What is read of a page of /metrics beside a load: a table, and nothing that acts.

Engines' figures are those of `wire/engine_figures.py`. Names were read off the DCGM exporter's documentation, and
Penstock's own gateway.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock.wire.engine_figures import ENGINE, TOTAL_MAX, Figure, counter, level, read

__all__ = ["BY_NAME", "ENGINE", "GATEWAY", "GPU", "Figure", "read"]

GATEWAY = (
    level("gateway_in_progress", b"penstock_requests_in_progress"),
    level("gateway_waiting", b"penstock_queue_length"),
    level("gateway_permits_out", b"penstock_permits_out"),
    level("gateway_memory_bytes", b"process_resident_memory_bytes", most=TOTAL_MAX),
    counter("gateway_cpu_seconds", b"process_cpu_seconds_total"),
    counter("gateway_retries", b"penstock_retries_total"),
    counter("gateway_continuations", b"penstock_continuations_total"),
)


def _count(values: Iterable[float]) -> float:
    return sum(1 for _ in values)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


# The exporter's own units, which its names do not tell: percent, MiB, watts, degrees, MHz and millijoules.
GPU = (
    Figure("gpus", ((b"DCGM_FI_DEV_GPU_TEMP",),), in_page=_count),
    level("gpu_utilization_percent", b"DCGM_FI_DEV_GPU_UTIL", most=100.0, together=_mean),
    level("gpu_memory_utilization_percent", b"DCGM_FI_DEV_MEM_COPY_UTIL", most=100.0, together=_mean),
    level("gpu_memory_used_mib", b"DCGM_FI_DEV_FB_USED"),
    level("gpu_power_w", b"DCGM_FI_DEV_POWER_USAGE"),
    level("gpu_temperature_c", b"DCGM_FI_DEV_GPU_TEMP", together=max),
    level("gpu_sm_clock_mhz", b"DCGM_FI_DEV_SM_CLOCK", together=_mean),
    level("gpu_memory_clock_mhz", b"DCGM_FI_DEV_MEM_CLOCK", together=_mean),
    counter("gpu_energy_mj", b"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"),
)

BY_NAME = {figure.name: figure for figure in (*ENGINE, *GATEWAY, *GPU)}
