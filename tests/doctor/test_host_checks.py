"""The machine's limits become findings, each with how to mend it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from penstock.doctor.facts import Disk, HostFacts, Limit
from penstock.doctor.finding import Level
from penstock.doctor.host_checks import host_findings

GIB = 2**30
ROOMY = Disk("/data", 500 * GIB, 1000 * GIB, 10**6, True)
WELL = HostFacts(
    python=(3, 12, 1),
    memory_total_bytes=64 * GIB,
    memory_available_bytes=50 * GIB,
    swap_used_bytes=0,
    shm_bytes=8 * GIB,
    nofile=Limit(65536, 65536),
    memlock=Limit(-1, -1),
    disks={"home": ROOMY, "model cache": ROOMY},
    cgroup=2,
    cgroup_writable=True,
    clock_synchronized=True,
)


def test_a_roomy_machine_has_nothing_to_mend() -> None:
    findings = list(host_findings(WELL, several_gpus=True))

    assert {finding.level for finding in findings} == {Level.OK}
    assert not any(finding.mend for finding in findings)


@pytest.mark.parametrize(
    ("changed", "several", "level", "subject", "seen"),
    [
        ({"python": (3, 10, 9)}, False, "fail", "python", "3.10.9"),
        ({"memory_available_bytes": GIB}, False, "warn", "memory", "1.0 of 64.0 GiB"),
        ({"memory_available_bytes": GIB, "swap_used_bytes": GIB}, False, "warn", "memory", "swaps"),
        ({"shm_bytes": 64 * 2**20}, False, "warn", "shm", "64 MiB"),
        ({"shm_bytes": 64 * 2**20}, True, "fail", "shm", "64 MiB"),
        ({"shm_bytes": None}, False, "fail", "shm", "no /dev/shm"),
        (
            {"nofile": Limit(1024, -1)},
            False,
            "warn",
            "open files",
            "1024 at once (may be raised to unlimited)",
        ),
        ({"memlock": Limit(65536, 65536)}, True, "warn", "locked memory", "0 MiB"),
        ({"disks": {"home": replace(ROOMY, writable=False)}}, False, "fail", "disk of home", "written"),
        ({"disks": {"home": replace(ROOMY, free_bytes=GIB // 2)}}, False, "warn", "disk of home", "0.5 of"),
        (
            {"disks": {"model cache": replace(ROOMY, free_bytes=10 * GIB)}},
            False,
            *("warn", "disk of model cache", "10.0 of"),
        ),
        ({"disks": {"home": replace(ROOMY, inodes_free=5)}}, False, "warn", "disk of home", "only 5 files"),
        ({"cgroup": 0}, False, "skip", "cgroups", "none here"),
        ({"cgroup_writable": False}, False, "skip", "cgroups", "not writable"),
        ({"clock_synchronized": False}, False, "warn", "clock", "not synchronized"),
        ({"clock_synchronized": None}, False, "skip", "clock", "does not say"),
    ],
)
def test_each_ill_is_found(
    changed: dict[str, Any], several: bool, level: str, subject: str, seen: str
) -> None:
    findings = list(host_findings(replace(WELL, **changed), several_gpus=several))

    (finding,) = [each for each in findings if each.level is not Level.OK]
    assert (finding.level, finding.subject) == (level, subject)
    assert seen in finding.seen
    assert finding.mend or finding.level is Level.SKIP


def test_little_locked_memory_does_for_one_gpu() -> None:
    findings = list(host_findings(replace(WELL, memlock=Limit(65536, -1)), several_gpus=False))

    assert {finding.level for finding in findings} == {Level.OK}
