"""How are the GPUs and their machine? Work, memory, heat, errors, and who holds what."""

from __future__ import annotations

from penstock.render.dashboards.hardware import GPU, HARDWARE, each
from penstock.render.dashboards.machine import MACHINE
from penstock.render.dashboards.page import (
    BYTES,
    CELSIUS,
    COUNT,
    HERTZ,
    PERCENT,
    WATTS,
    Page,
    Panel,
    Query,
    Row,
)

_INSTANCE = "max by (instance, gpu, mig) (%s)"

PAGE = Page(
    "penstock-gpus",
    "Penstock: GPUs and machines",
    "Work, memory, heat and errors of each GPU, who holds its memory, and the machine around it.",
    (
        Row(
            "Work",
            (
                Panel(
                    "Driver",
                    "1 where the NVIDIA driver answers.",
                    COUNT,
                    (Query("max by (instance) (penstock_gpu_driver_up)", "{{instance}}"),),
                    "stat",
                    4,
                    (1, 0.5),
                ),
                Panel(
                    "Busy",
                    "Share of the time in which a kernel ran, and in which memory was read or written. It says nothing of "
                    "how well they were used; a decoding engine waits for its memory.",
                    PERCENT,
                    (
                        Query(each("penstock_gpu_utilization_ratio"), GPU),
                        Query(each("penstock_gpu_memory_utilization_ratio"), f"{GPU} memory"),
                    ),
                    width=10,
                    most=1.0,
                ),
                Panel(
                    "Memory used",
                    "Of what there is. An engine takes its share at the start and keeps it.",
                    PERCENT,
                    (
                        Query(
                            f"{each('penstock_gpu_memory_used_bytes')} / {each('penstock_gpu_memory_total_bytes')}",
                            GPU,
                        ),
                    ),
                    width=10,
                    most=1.0,
                ),
                Panel(
                    "Power",
                    "Beside its limit.",
                    WATTS,
                    (
                        Query(each("penstock_gpu_power_watts"), GPU),
                        Query(each("penstock_gpu_power_limit_watts"), f"{GPU} limit"),
                    ),
                ),
                Panel(
                    "Tokens for a joule",
                    "Generated tokens by the energy of all GPUs: what batching and quantization are good for.",
                    COUNT,
                    (
                        Query(
                            "sum(rate(llm_generation_tokens_total[5m])) / sum(rate(penstock_gpu_energy_joules_total[5m]))",
                            "tokens per joule",
                        ),
                    ),
                ),
                Panel(
                    "Clock",
                    "Beside the highest. It falls when the GPU is throttled, or idle.",
                    HERTZ,
                    (
                        Query(each("penstock_gpu_clock_hertz", ", clock"), f"{GPU} {{{{clock}}}}"),
                        Query(
                            each("penstock_gpu_clock_max_hertz", ", clock"), f"{GPU} {{{{clock}}}} at most"
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Memory",
            (
                Panel(
                    "Free",
                    "Less than 2 GB: the next long prompt may not fit.",
                    BYTES,
                    (Query(each("penstock_gpu_memory_free_bytes"), GPU),),
                    limits=(4e9, 2e9),
                ),
                Panel(
                    "Held by replicas",
                    "By each process that belongs to a replica.",
                    BYTES,
                    (
                        Query(
                            'sum by (instance, gpu, replica) (penstock_gpu_process_memory_bytes{replica!=""})',
                            f"{GPU} {{{{replica}}}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Held by others",
                    "By processes that belong to no replica: what an engine left behind, or somebody else's work.",
                    BYTES,
                    (Query(each("penstock_gpu_orphan_memory_bytes"), GPU),),
                    limits=(1, 1e9),
                ),
                Panel(
                    "Processes of others",
                    "Those that hold memory and belong to no replica.",
                    COUNT,
                    (Query(each("penstock_gpu_orphan_processes"), GPU),),
                ),
                Panel(
                    "Kept by the driver",
                    "What driver and firmware keep for themselves: no engine can have it.",
                    BYTES,
                    (Query(each("penstock_gpu_memory_reserved_bytes"), GPU),),
                ),
                Panel(
                    "MIG instances",
                    "Memory that each holds, of what it has.",
                    PERCENT,
                    (
                        Query(
                            f"{_INSTANCE % 'penstock_gpu_mig_memory_used_bytes'} "
                            f"/ {_INSTANCE % 'penstock_gpu_mig_memory_total_bytes'}",
                            f"{GPU} {{{{mig}}}}",
                        ),
                    ),
                    most=1.0,
                ),
            ),
        ),
        Row(
            "Health",
            (
                Panel(
                    "Temperature",
                    "From 85 degrees on most GPUs begin to slow down.",
                    CELSIUS,
                    (
                        Query(each("penstock_gpu_temperature_celsius"), GPU),
                        Query(each("penstock_gpu_memory_temperature_celsius"), f"{GPU} memory"),
                    ),
                    limits=(80, 85),
                ),
                Panel(
                    "Throttled",
                    "Share of the time, by reason. Power caps are normal under load; heat and power brakes are not.",
                    PERCENT,
                    (
                        Query(
                            "max by (instance, gpu, reason) (rate(penstock_gpu_throttle_seconds_total[$__rate_interval]))",
                            f"{GPU} {{{{reason}}}}",
                        ),
                    ),
                    most=1.0,
                ),
                Panel(
                    "Held down now",
                    "1 where the clocks are, by the reason for it.",
                    COUNT,
                    (Query(each("penstock_gpu_throttle", ", reason"), f"{GPU} {{{{reason}}}}"),),
                    "states",
                ),
                Panel(
                    "XID errors",
                    "In an hour, by what is to be done. The runbooks of the GPU alerts say how.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, gpu, action) (increase(penstock_gpu_xid_errors_total[1h]))",
                            f"{GPU} {{{{action}}}}",
                        ),
                    ),
                    limits=(1, 1),
                ),
                Panel(
                    "Memory errors",
                    "In an hour. Corrected ones are told for their growth; an uncorrected one is a page.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, gpu, kind) (increase(penstock_gpu_ecc_errors_total[1h]))",
                            f"{GPU} {{{{kind}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Remapped rows",
                    "Memory that was replaced by spare rows. Pending ones need a reset; a failure needs another GPU.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, gpu, cause) (penstock_gpu_remapped_rows)",
                            f"{GPU} {{{{cause}}}}",
                        ),
                        Query(each("penstock_gpu_row_remap_pending"), f"{GPU} pending"),
                        Query(each("penstock_gpu_row_remap_failed"), f"{GPU} failed"),
                    ),
                ),
                Panel(
                    "Links",
                    "Errors in an hour on NVLink and PCIe.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, gpu) (increase(penstock_gpu_nvlink_errors_total[1h]))",
                            f"{GPU} NVLink",
                        ),
                        Query(
                            "sum by (instance, gpu) (increase(penstock_gpu_pcie_replays_total[1h]))",
                            f"{GPU} PCIe",
                        ),
                    ),
                ),
            ),
        ),
        *HARDWARE,
        *MACHINE,
    ),
)
