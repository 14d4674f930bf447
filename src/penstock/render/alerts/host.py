"""Alerts about the machine, from what `penstock exporter` reads of it."""

from __future__ import annotations

from penstock.render.rule import Alert, Severity

TICKET = Severity.TICKET
_PERCENT = "{{ $value | humanizePercentage }}"

HOST = (
    Alert(
        "HostDiskLow",
        'penstock_host_disk_free_bytes{place!="shm"} / penstock_host_disk_total_bytes < 0.1',
        600,
        TICKET,
        f"{{{{ $labels.instance }}}}: only {_PERCENT} of the disk for {{{{ $labels.place }}}} is free",
    ),
    Alert(
        "HostShmLow",
        'penstock_host_disk_free_bytes{place="shm"} / penstock_host_disk_total_bytes < 0.1',
        300,
        TICKET,
        f"{{{{ $labels.instance }}}}: only {_PERCENT} of the shared memory is free, through which ranks talk",
    ),
    Alert(
        "HostMemoryLow",
        "penstock_host_memory_available_bytes / penstock_host_memory_total_bytes < 0.05",
        300,
        TICKET,
        f"{{{{ $labels.instance }}}}: only {_PERCENT} of the memory is left",
    ),
    Alert(
        "HostOomKill",
        "increase(penstock_host_oom_kills_total[15m]) > 0",
        0,
        TICKET,
        "{{ $labels.instance }}: the kernel killed processes for want of memory ({{ $value | humanize }})",
    ),
    Alert(
        "HostFilesNearlyOut",
        "penstock_host_file_descriptors_open / penstock_host_file_descriptors_max > 0.8",
        300,
        TICKET,
        f"{{{{ $labels.instance }}}} has {_PERCENT} of all files open that it may",
    ),
)
