"""The machine around the GPUs: rows of their page."""

from __future__ import annotations

from penstock.render.dashboards.page import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    PER_SECOND,
    PERCENT,
    SECONDS,
    Panel,
    Query,
    Row,
)

MACHINE = (
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
                "Load",
                "Processes that run or wait for the disk, beside the processors that there are.",
                COUNT,
                (
                    Query("max by (instance, over) (penstock_host_load)", "{{instance}} over {{over}}"),
                    Query("max by (instance) (penstock_host_cpus)", "{{instance}} processors"),
                ),
                width=6,
            ),
            Panel(
                "Pressure",
                "Share of the time in which something waited for a resource. Waiting for memory is close to the end of it.",
                PERCENT,
                (
                    Query(
                        "max by (instance, resource) (rate(penstock_host_pressure_seconds_total[$__rate_interval]))",
                        "{{instance}} {{resource}}",
                    ),
                ),
                width=6,
                most=1.0,
            ),
            Panel(
                "Up for",
                "Time since the machine was started.",
                SECONDS,
                (Query("time() - max by (instance) (penstock_host_boot_time_seconds)", "{{instance}}"),),
                "stat",
                6,
            ),
            Panel(
                "Memory available",
                "Without swapping.",
                BYTES,
                (Query("min by (instance) (penstock_host_memory_available_bytes)", "{{instance}}"),),
                width=6,
            ),
            Panel(
                "Swapped out",
                "Memory that was moved to the disk. An engine's is slow to come back.",
                BYTES,
                (Query("max by (instance) (penstock_host_swap_used_bytes)", "{{instance}}"),),
                width=6,
            ),
            Panel(
                "Swapping",
                "To and from the disk.",
                BYTES_PER_SECOND,
                (
                    Query(
                        "max by (instance, direction) (rate(penstock_host_swapped_bytes_total[$__rate_interval]))",
                        "{{instance}} {{direction}}",
                    ),
                ),
                width=6,
            ),
            Panel(
                "Killed for want of memory",
                "Processes in an hour.",
                COUNT,
                (Query("sum by (instance) (increase(penstock_host_oom_kills_total[1h]))", "{{instance}}"),),
                width=6,
                limits=(1, 1),
            ),
            Panel(
                "Disk free",
                "Under the home, the model cache and shared memory.",
                BYTES,
                (
                    Query(
                        "min by (instance, place) (penstock_host_disk_free_bytes)", "{{instance}} {{place}}"
                    ),
                ),
                width=6,
            ),
            Panel(
                "Files that may be made",
                "In the same places; a disk can be full of small ones.",
                COUNT,
                (
                    Query(
                        "min by (instance, place) (penstock_host_disk_free_inodes)", "{{instance}} {{place}}"
                    ),
                ),
                width=6,
            ),
            Panel(
                "Network",
                "Sent and received, by interface.",
                BYTES_PER_SECOND,
                (
                    Query(
                        "max by (instance, interface, direction) "
                        "(rate(penstock_host_network_bytes_total[$__rate_interval]))",
                        "{{instance}} {{interface}} {{direction}}",
                    ),
                ),
                width=6,
            ),
            Panel(
                "Damaged and dropped packets",
                "By interface.",
                PER_SECOND,
                (
                    Query(
                        "max by (instance, interface, direction) "
                        "(rate(penstock_host_network_errors_total[$__rate_interval]))",
                        "{{instance}} {{interface}} {{direction}}",
                    ),
                ),
                width=6,
            ),
        ),
    ),
)
