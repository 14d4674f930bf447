"""Alerts about GPUs, from what `penstock exporter` reads of NVML."""

from __future__ import annotations

from penstock.render.rule import Alert, Severity

PAGE, TICKET, INFO = Severity.PAGE, Severity.TICKET, Severity.INFO
_GPU = "GPU {{ $labels.gpu }} of {{ $labels.instance }}"
_PERCENT = "{{ $value | humanizePercentage }}"

GPU = (
    Alert(
        "GpuMemoryLow",
        "penstock_gpu_memory_free_bytes < 2e9",
        300,
        TICKET,
        f"{_GPU} has {{{{ $value | humanize1024 }}}}B of memory free",
    ),
    Alert(
        "GpuHot",
        "penstock_gpu_temperature_celsius > 85",
        300,
        TICKET,
        f"{_GPU} is at {{{{ $value }}}} °C",
    ),
    Alert(
        "GpuEccUncorrected",
        'increase(penstock_gpu_ecc_errors_total{kind="uncorrected"}[15m]) > 0',
        0,
        PAGE,
        f"{_GPU}: memory errors that could not be corrected ({{{{ $value | humanize }}}})",
    ),
    Alert(
        "GpuRowRemapFailed",
        "penstock_gpu_row_remap_failed > 0",
        0,
        PAGE,
        f"{_GPU}: a bad row of memory could not be remapped: replace it",
    ),
    Alert(
        "GpuRowRemapPending",
        "penstock_gpu_row_remap_pending > 0",
        300,
        TICKET,
        f"{_GPU}: a bad row of memory waits for a reset to be remapped",
    ),
    Alert(
        "GpuRemapGrowth",
        'delta(penstock_gpu_remapped_rows{cause="corrected"}[1d]) > 8',
        0,
        TICKET,
        f"{_GPU}: {{{{ $value | humanize }}}} rows of memory were remapped within a day: it wears out",
    ),
    Alert(
        "GpuXidFatal",
        'increase(penstock_gpu_xid_errors_total{action=~"reset_gpu|reboot|inspect"}[15m]) > 0',
        0,
        PAGE,
        f"{_GPU} met an error of the kind {{{{ $labels.action }}}} (Xid)",
    ),
    Alert(
        "GpuXidApplication",
        'increase(penstock_gpu_xid_errors_total{action=~"restart_app|unknown"}[15m]) > 0',
        0,
        TICKET,
        f"{_GPU} met an error, most likely of the program that ran (Xid, {{{{ $labels.action }}}})",
    ),
    Alert(
        "GpuLost",
        "penstock_gpu_up == 0",
        60,
        PAGE,
        f"{_GPU} does not answer: it has fallen off its bus, or waits for a reset",
    ),
    Alert(
        "GpuDriverGone",
        # on a machine that had GPUs within the day: on others there is nothing to be missed
        "penstock_gpu_driver_up == 0 and on (instance) max by (instance) (max_over_time(penstock_gpu_up[1d]))",
        60,
        PAGE,
        "the NVIDIA driver of {{ $labels.instance }} does not answer: {{ $labels.reason }}",
    ),
    Alert(
        "GpuOrphanMemory",
        "penstock_gpu_orphan_memory_bytes > 1e9",
        300,
        TICKET,
        f"{_GPU}: processes of no replica hold {{{{ $value | humanize1024 }}}}B of its memory",
    ),
    Alert(
        "GpuRecoveryNeeded",
        "penstock_gpu_recovery_action_code > 0",
        60,
        PAGE,
        f"{_GPU}: its driver asks for a reset or a reboot (action {{{{ $value }}}})",
    ),
    Alert(
        "GpuThrottled",
        'rate(penstock_gpu_throttle_seconds_total{reason=~"hw_thermal|sw_thermal|hw_power_brake"}[5m]) > 0.05',
        600,
        TICKET,
        f"{_GPU} is slowed down for {_PERCENT} of the time: {{{{ $labels.reason }}}}",
    ),
    Alert(
        "GpuNvlinkErrors",
        'sum by (instance, gpu) (increase(penstock_gpu_nvlink_errors_total{kind=~"replay|recovery|crc_.*"}[15m]))'
        " > 0",
        900,
        TICKET,
        f"{_GPU}: {{{{ $value | humanize }}}} errors of NVLink in a quarter of an hour",
    ),
    Alert(
        "GpuPcieReplays",
        "increase(penstock_gpu_pcie_replays_total[15m]) > 100",
        900,
        TICKET,
        f"{_GPU}: {{{{ $value | humanize }}}} transfers over PCIe were repeated in a quarter of an hour",
    ),
    Alert(
        "GpuIdleCost",
        "max_over_time(penstock_gpu_utilization_ratio[1h]) == 0 and penstock_gpu_memory_used_bytes > 1e9",
        3600,
        INFO,
        f"{_GPU} holds a model and has done nothing for hours",
    ),
)
