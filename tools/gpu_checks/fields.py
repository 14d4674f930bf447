"""What the exporter reads of each GPU, and what reading costs on this driver."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from gpu_checks.row import Row, info, judged
from gpu_checks.vram import Vram
from penstock.telemetry.gpu_driver import GpuReading
from penstock.telemetry.gpu_fields import Value

PART = "fields"
READINGS = 30
CORE_SHARE_MAX = 0.01
NEEDED = ("memory_used_bytes", "memory_free_bytes", "utilization_ratio", "temperature_celsius", "power_watts")


def check(vram: Vram) -> Iterator[Row]:
    """Every field of every GPU, and the cost of a reading."""
    sight = vram.look()
    if sight.trouble is not None:
        yield judged(PART, "driver", sight.trouble.message, "it answers", well=False)
        return
    yield info(PART, "driver", f"{sight.driver}, CUDA {sight.cuda}, {len(sight.gpus)} GPUs")
    for gpu in sight.gpus:
        yield from _of_gpu(gpu)
    yield _cost(vram)


def _of_gpu(gpu: GpuReading) -> Iterator[Row]:
    name = f"gpu {gpu.index}"
    yield info(PART, name, f"{gpu.name} {gpu.uuid}")
    missing = [field for field in NEEDED if gpu.number(field) is None]
    yield judged(
        PART,
        f"{name}: what alerts need",
        f"missing: {', '.join(missing) or 'none'}",
        "all there",
        well=not missing,
    )
    for field, value in gpu.values.items():
        yield info(PART, f"{name}: {field}", _shown(value))
    for field, why in gpu.absent.items():
        yield info(PART, f"{name}: {field}", f"absent: {why}")
    held = {} if gpu.processes is None else gpu.processes
    yield info(PART, f"{name}: processes", f"{len(held)} hold {sum(held.values()) / 2**20:.0f} MiB")


def _shown(value: Value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{part} {of:g}" for part, of in value.items())
    return f"{value:g}"


def _cost(vram: Vram) -> Row:
    before = os.times()
    for _ in range(READINGS):
        vram.look()
    after = os.times()
    spent_s = (after.user + after.system - before.user - before.system) / READINGS
    took_ms = (after.elapsed - before.elapsed) / READINGS * 1000
    seen = f"{spent_s * 1000:.2f} ms of CPU, {took_ms:.1f} ms in all"
    return judged(
        PART,
        "one reading",
        seen,
        f"under {CORE_SHARE_MAX:.0%} of a core each second",
        spent_s < CORE_SHARE_MAX,
    )
