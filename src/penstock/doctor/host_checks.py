"""The machine beside its GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.doctor.facts import Disk, HostFacts
from penstock.doctor.finding import Finding, Level, fail, ok, skip, warn

GIB = 2**30
MIB = 2**20

PYTHON_MIN = (3, 11)
SHM_BYTES_MIN = 1 * GIB
"""Docker's default of 64 MiB ends NCCL with two GPUs, and several processes of vLLM without any."""

NOFILE_MIN = 8192
"""A connection of a client and one to an engine, for each of the 4096 that a gateway takes by default."""

DISK_FREE_BYTES_MIN = {"home": 1 * GIB, "model cache": 20 * GIB}
"""Logs, journal and ledger of some weeks; a model of 8 billion weights in 16 bits, and its download."""

INODES_FREE_MIN = 10_000
MEMORY_SHARE_MIN = 0.1


def host_findings(facts: HostFacts, *, several_gpus: bool) -> Iterator[Finding]:
    """All that is found of the machine.

    Args:
        several_gpus: NCCL will be used: what it needs is needed.
    """
    yield _python(facts)
    yield _memory(facts)
    yield _shm(facts, several_gpus=several_gpus)
    yield from _limits(facts, several_gpus=several_gpus)
    for name, disk in facts.disks.items():
        yield _disk(name, disk)
    yield _cgroup(facts)
    yield _clock(facts)


def _python(facts: HostFacts) -> Finding:
    seen = ".".join(map(str, facts.python))
    if facts.python[:2] < PYTHON_MIN:
        return fail("python", seen, f"install Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer")
    return ok("python", seen)


def _memory(facts: HostFacts) -> Finding:
    total, available = facts.memory_total_bytes, facts.memory_available_bytes
    seen = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if facts.swap_used_bytes > MIB and available < MEMORY_SHARE_MIN * total:
        return warn("memory", f"{seen}, and it swaps", "stop what is not needed: an engine that swaps stalls")
    if available < MEMORY_SHARE_MIN * total:
        return warn("memory", seen, "stop what is not needed, before the kernel does (exit code 137)")
    return ok("memory", seen)


def _shm(facts: HostFacts, *, several_gpus: bool) -> Finding:
    if facts.shm_bytes is None:
        return fail("shm", "there is no /dev/shm", "mount a tmpfs there: vLLM's processes talk through it")
    seen = f"{facts.shm_bytes / MIB:.0f} MiB in /dev/shm"
    if facts.shm_bytes >= SHM_BYTES_MIN:
        return ok("shm", seen)
    tell = fail if several_gpus else warn
    return tell(
        "shm", seen, "docker run --shm-size=8g or --ipc=host; else: sudo mount -o remount,size=8g /dev/shm"
    )


def _limits(facts: HostFacts, *, several_gpus: bool) -> Iterator[Finding]:
    nofile = facts.nofile
    if 0 <= nofile.soft < NOFILE_MIN:
        raised = "unlimited" if nofile.hard < 0 else nofile.hard
        yield warn(
            "open files",
            f"{nofile.soft} at once (may be raised to {raised})",
            f"ulimit -n {NOFILE_MIN * 8}, or LimitNOFILE={NOFILE_MIN * 8} in its systemd unit",
        )
    else:
        yield ok("open files", f"{'no limit' if nofile.soft < 0 else nofile.soft} at once")
    memlock = facts.memlock
    if memlock.soft < 0:
        yield ok("locked memory", "no limit")
    elif several_gpus:
        yield warn(
            "locked memory",
            f"{memlock.soft / MIB:.0f} MiB: NCCL over InfiniBand and pinned memory need more",
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in its systemd unit",
        )
    else:
        yield ok("locked memory", f"{memlock.soft / MIB:.0f} MiB, enough for one GPU")


def _disk(name: str, disk: Disk) -> Finding:
    subject, seen = (
        f"disk of {name}",
        f"{disk.folder}: {disk.free_bytes / GIB:.1f} of {disk.total_bytes / GIB:.1f} GiB free",
    )
    if not disk.writable:
        return fail(
            subject, f"{disk.folder} can't be written to", "name another folder, or: chown it to this user"
        )
    if 0 < disk.inodes_free < INODES_FREE_MIN:
        return warn(
            subject,
            f"{disk.folder}: only {disk.inodes_free} files can still be made",
            "remove small files there",
        )
    least = DISK_FREE_BYTES_MIN.get(name, GIB)
    if disk.free_bytes < least:
        return warn(
            subject,
            seen,
            f"make room: {least / GIB:.0f} GiB should be free, or name a folder on another disk",
        )
    return ok(subject, seen)


def _cgroup(facts: HostFacts) -> Finding:
    if not facts.cgroup:
        return skip("cgroups", "none here; processes are kept together by their sessions")
    seen = f"version {facts.cgroup}, {'writable' if facts.cgroup_writable else 'not writable'}"
    if facts.cgroup_writable:
        return ok("cgroups", seen)
    return Finding(
        "cgroups",
        Level.SKIP,
        f"{seen}: processes are kept together by their sessions",
        "Delegate=yes in its systemd unit, where what an engine leaves behind shall be found for sure",
    )


def _clock(facts: HostFacts) -> Finding:
    if facts.clock_synchronized is None:
        return skip("clock", "the kernel does not say whether it is synchronized")
    if facts.clock_synchronized:
        return ok("clock", "synchronized")
    return warn(
        "clock",
        "not synchronized: budgets, journal and traces of several machines will disagree",
        "sudo timedatectl set-ntp true, or install chrony; in a container the host's clock counts",
    )
