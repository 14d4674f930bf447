"""How are the GPUs and their machine? Work, memory, heat, errors, and who holds what."""

from __future__ import annotations

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

_GPU = "{{instance}} GPU {{gpu}}"


def _each(metric: str, more: str = "") -> str:
    return f"max by (instance, gpu{more}) ({metric})"


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
                    "Share of the time in which a kernel ran. It says nothing of how well it was used.",
                    PERCENT,
                    (Query(_each("penstock_gpu_utilization_ratio"), _GPU),),
                    width=10,
                    most=1.0,
                ),
                Panel(
                    "Memory used",
                    "Of what there is. An engine takes its share at the start and keeps it.",
                    PERCENT,
                    (
                        Query(
                            f"{_each('penstock_gpu_memory_used_bytes')} / {_each('penstock_gpu_memory_total_bytes')}",
                            _GPU,
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
                        Query(_each("penstock_gpu_power_watts"), _GPU),
                        Query(_each("penstock_gpu_power_limit_watts"), f"{_GPU} limit"),
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
                    "Of the processors. It falls when the GPU is throttled.",
                    HERTZ,
                    (Query(_each("penstock_gpu_clock_hertz", ", clock"), f"{_GPU} {{{{clock}}}}"),),
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
                    (Query(_each("penstock_gpu_memory_free_bytes"), _GPU),),
                    limits=(4e9, 2e9),
                ),
                Panel(
                    "Held by replicas",
                    "By each process that belongs to a replica.",
                    BYTES,
                    (
                        Query(
                            'sum by (instance, gpu, replica) (penstock_gpu_process_memory_bytes{replica!=""})',
                            f"{_GPU} {{{{replica}}}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Held by others",
                    "By processes that belong to no replica: what an engine left behind, or somebody else's work.",
                    BYTES,
                    (Query(_each("penstock_gpu_orphan_memory_bytes"), _GPU),),
                    limits=(1, 1e9),
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
                        Query(_each("penstock_gpu_temperature_celsius"), _GPU),
                        Query(_each("penstock_gpu_memory_temperature_celsius"), f"{_GPU} memory"),
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
                            f"{_GPU} {{{{reason}}}}",
                        ),
                    ),
                    most=1.0,
                ),
                Panel(
                    "XID errors",
                    "In an hour, by what is to be done. The runbooks of the GPU alerts say how.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, gpu, action) (increase(penstock_gpu_xid_errors_total[1h]))",
                            f"{_GPU} {{{{action}}}}",
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
                            f"{_GPU} {{{{kind}}}}",
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
                            f"{_GPU} {{{{cause}}}}",
                        ),
                        Query(_each("penstock_gpu_row_remap_pending"), f"{_GPU} pending"),
                        Query(_each("penstock_gpu_row_remap_failed"), f"{_GPU} failed"),
                    ),
                ),
                Panel(
                    "Links",
                    "Errors in an hour on NVLink and PCIe.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance, gpu) (increase(penstock_gpu_nvlink_errors_total[1h]))",
                            f"{_GPU} NVLink",
                        ),
                        Query(
                            "sum by (instance, gpu) (increase(penstock_gpu_pcie_replays_total[1h]))",
                            f"{_GPU} PCIe",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "The machine",
            (
                Panel(
                    "Processors",
                    "Busy share.",
                    PERCENT,
                    (
                        Query(
                            'sum by (instance) (rate(penstock_host_cpu_seconds_total{mode!~"idle|iowait"}[$__rate_interval])) '
                            "/ sum by (instance) (rate(penstock_host_cpu_seconds_total[$__rate_interval]))",
                            "{{instance}}",
                        ),
                    ),
                    width=6,
                    most=1.0,
                ),
                Panel(
                    "Memory available",
                    "Without swapping.",
                    BYTES,
                    (Query("min by (instance) (penstock_host_memory_available_bytes)", "{{instance}}"),),
                    width=6,
                ),
                Panel(
                    "Disk free",
                    "Under the home, the model cache and shared memory.",
                    BYTES,
                    (
                        Query(
                            "min by (instance, place) (penstock_host_disk_free_bytes)",
                            "{{instance}} {{place}}",
                        ),
                    ),
                    width=6,
                ),
                Panel(
                    "Killed for want of memory",
                    "Processes in an hour.",
                    COUNT,
                    (
                        Query(
                            "sum by (instance) (increase(penstock_host_oom_kills_total[1h]))", "{{instance}}"
                        ),
                    ),
                    width=6,
                    limits=(1, 1),
                ),
            ),
        ),
    ),
)
