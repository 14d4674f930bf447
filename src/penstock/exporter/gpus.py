"""GPUs as metrics. Pure, but for what `look` is asked of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.exporter.owners import Kin, Owner, owner_of
from penstock.telemetry.families import Families, Family, Kind
from penstock.telemetry.gpu_driver import GpuReading, Sight
from penstock.telemetry.gpu_fields import Field, fields
from penstock.telemetry.nvml import Absence

SOURCE = "gpu"
LABELS = ("gpu", "uuid", "name")
PROCESSES_MAX = 64
"""Processes of one GPU with a series each, the largest; the others are one series, with the pid `other`."""


def _metric(field: Field) -> Family:
    kind: Kind = "counter" if field.counter else "gauge"
    name = f"penstock_gpu_{field.name}{'_total' if field.counter else ''}"
    return Family(name, kind, field.text, (*LABELS, field.label) if field.label else LABELS)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"penstock_gpu_{name}", "gauge", text, labels)


OF_FIELD = {field.name: _metric(field) for field in fields()}

DRIVER_UP = _gauge("driver_up", "1 where the NVIDIA driver answers; else 0, with the reason.", "reason")
DRIVER_INFO = _gauge(
    "driver_info", "Versions of the driver, and of the newest CUDA that it knows; 1.", "driver", "cuda"
)
UP = _gauge("up", "1 where the GPU answers; 0 where it has fallen off its bus or waits for a reset.", *LABELS)
ABSENT = _gauge("fields_absent", "Values that it does not tell, by why.", *LABELS, "reason")
HELD = _gauge(
    "process_memory_bytes", "Memory that a process holds; no replica for an orphan.",
    *LABELS, "pid", "program", "replica", "model",
)  # fmt: skip
ORPHAN_BYTES = _gauge("orphan_memory_bytes", "Memory held by processes that belong to no replica.", *LABELS)
ORPHANS = _gauge("orphan_processes", "Processes that hold memory and belong to no replica.", *LABELS)
MIG_TOTAL = _gauge("mig_memory_total_bytes", "Memory of a MIG instance.", *LABELS, "mig")
MIG_USED = _gauge("mig_memory_used_bytes", "Memory of a MIG instance that is held.", *LABELS, "mig")
XIDS = Family(
    "penstock_gpu_xid_errors_total",
    "counter",
    "Xids since the exporter began, by what they ask for.",
    (*LABELS, "action"),
)
LAST_XID = _gauge("xid_last_code", "The newest Xid since the exporter began; 0 for none.", *LABELS)

METRICS = (
    DRIVER_UP, DRIVER_INFO, UP, *OF_FIELD.values(), HELD, ORPHAN_BYTES, ORPHANS, XIDS, LAST_XID, MIG_TOTAL,
    MIG_USED, ABSENT,
)  # fmt: skip


def gpu_families(
    families: Families, sight: Sight, owners: Mapping[int, Owner], look: Callable[[int], Kin | None]
) -> None:
    """Adds all that was seen.

    Args:
        owners: replicas by their process.
        look: tells of a process.
    """
    if sight.trouble is not None:
        families.add(DRIVER_UP, 0, sight.trouble.reason)
        return
    families.add(DRIVER_UP, 1, "")
    families.add(DRIVER_INFO, 1, sight.driver, sight.cuda)
    for gpu in sight.gpus:
        _add_gpu(families, gpu)
        _add_processes(families, gpu, owners, look)


def _add_gpu(families: Families, gpu: GpuReading) -> None:
    labels = _labels(gpu)
    families.add(UP, not gpu.lost, *labels)
    for name, value in gpu.values.items():
        if isinstance(value, Mapping):
            for part, of_part in value.items():
                families.add(OF_FIELD[name], of_part, *labels, part)
        else:
            families.add(OF_FIELD[name], value, *labels)
    for action, count in gpu.xids.items():
        families.add(XIDS, count, *labels, action)
    families.add(LAST_XID, gpu.last_xid, *labels)
    for instance in gpu.instances:
        families.add(MIG_TOTAL, instance.total_bytes, *labels, instance.uuid)
        families.add(MIG_USED, instance.used_bytes, *labels, instance.uuid)
    reasons = list(gpu.absent.values())
    for absence in Absence:
        families.add(ABSENT, reasons.count(absence), *labels, absence)


def _add_processes(
    families: Families, gpu: GpuReading, owners: Mapping[int, Owner], look: Callable[[int], Kin | None]
) -> None:
    if gpu.processes is None:
        return
    labels = _labels(gpu)
    orphans, orphan_bytes, rest = 0, 0, 0
    by_size = sorted(gpu.processes.items(), key=lambda one: one[1], reverse=True)
    for place, (pid, held) in enumerate(by_size):
        owner = owner_of(pid, owners, look)
        if owner is None:
            orphans, orphan_bytes = orphans + 1, orphan_bytes + held
        if place >= PROCESSES_MAX:
            rest += held
            continue
        found = look(pid)
        named = (owner.replica, owner.model) if owner else ("", "")
        families.add(HELD, held, *labels, str(pid), found.program if found else "", *named)
    if rest:
        families.add(HELD, rest, *labels, "other", "", "", "")
    families.add(ORPHANS, orphans, *labels)
    families.add(ORPHAN_BYTES, orphan_bytes, *labels)


def _labels(gpu: GpuReading) -> tuple[str, str, str]:
    return str(gpu.index), gpu.uuid, gpu.name
