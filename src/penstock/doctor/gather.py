"""The machine's facts: read, and nothing concluded."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from penstock.doctor.facts import Disk, HostFacts, Installed, KernelXid, Limit
from penstock.doctor.setup_checks import ENGINE_PACKAGES
from penstock.engines.installation import Installation, find
from penstock.engines.paths import path_of

KMSG_BYTES_MAX = 8 * 2**20
"""Of the kernel's log; its ring is smaller on every distribution."""

STALE_AFTER_S = 3600.0
"""A file that was being written is whole, or its writer gone, after much less."""

STALE_MAX = 1000

_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}|proof-\d+")
_TIME_ERROR = 5  # of adjtimex(2)
_TIMEX_BYTES = 512  # more than a struct timex


def host_facts(disks: Mapping[str, Path], proc: Path = Path("/proc")) -> HostFacts:
    """The machine.

    Args:
        disks: folders by what they are for; they may not be there yet.
    """
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    cgroup, writable = _cgroup(proc)
    return HostFacts(
        python=sys.version_info[:3],
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        swap_used_bytes=swap.used,
        shm_bytes=_shm_bytes(),
        nofile=Limit(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        memlock=Limit(*resource.getrlimit(resource.RLIMIT_MEMLOCK)),
        disks={name: _disk(folder) for name, folder in disks.items()},
        cgroup=cgroup,
        cgroup_writable=writable,
        clock_synchronized=_clock(),
    )


def _shm_bytes() -> int | None:
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 - looked at, never written to
    except OSError:
        return None
    return found.f_blocks * found.f_frsize


def _disk(folder: Path) -> Disk:
    # Not by `Path.is_dir`, which raises where this user may not look.
    there = next((path for path in (folder, *folder.parents) if os.path.isdir(path)), Path("/"))  # noqa: PTH112
    found = os.statvfs(there)
    return Disk(
        str(folder),
        found.f_bavail * found.f_frsize,
        found.f_blocks * found.f_frsize,
        found.f_favail,
        os.access(there, os.W_OK | os.X_OK),
    )


def _cgroup(proc: Path) -> tuple[int, bool]:
    """The version of cgroups, and whether groups can be made below our own."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return 0, False
    root = Path("/sys/fs/cgroup")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers and (root / "cgroup.controllers").exists():
            return 2, os.access(root / path.lstrip("/"), os.W_OK)
        if "pids" in controllers.split(","):
            return 1, os.access(root / "pids" / path.lstrip("/"), os.W_OK)
    return 0, False


def _clock() -> bool | None:
    """Whether the kernel's clock is kept right; None where it does not say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def kernel_xids(path: Path = Path("/dev/kmsg")) -> tuple[KernelXid, ...] | None:
    """The Xids of the kernel's log; None where it may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return tuple(xids_in(_records(fd)))
    finally:
        os.close(fd)


def _records(fd: int) -> Iterator[str]:
    """What is in the log now; each read gives one record, and one that was overwritten amid it is passed over."""
    read_bytes = 0
    while read_bytes < KMSG_BYTES_MAX:
        try:
            record = os.read(fd, 8192)
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue
        except OSError:
            return
        if not record:
            return
        read_bytes += len(record)
        yield record.decode("utf-8", "replace")


def xids_in(lines: Iterable[str]) -> Iterator[KernelXid]:
    """The Xids in lines of the kernel's log."""
    for line in lines:
        for pci, code in _XID.findall(line):
            yield KernelXid(pci, int(code))


def installed_engines(environ: Mapping[str, str], venvs: Iterable[str]) -> tuple[Installed, ...]:
    """The engines' packages in this environment, in those that are named, and in those of commands on the PATH.

    Args:
        venvs: folders of virtual environments.
    """
    by_command = (find(command, "", environ) for command in ("vllm", "transformers", "sglang"))
    others = [*(Installation(path_of(venv)) for venv in venvs if venv), *filter(None, by_command)]
    found: dict[tuple[str, str], Installed] = {}
    for package in ENGINE_PACKAGES.values():
        for each in metadata.distributions(name=package):
            found.setdefault((package, sys.prefix), Installed(package, each.version, sys.prefix))
        for other in others:
            where, there = str(other.folder), other.distribution((package,))
            if there is not None:
                found.setdefault((package, where), Installed(package, there.version, where))
    return tuple(found.values())


def token_source(environ: Mapping[str, str], from_config: bool) -> str:
    """Where a token of the Hugging Face Hub is; empty for nowhere. The token itself is not read."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name):
            return f"{name} in the environment"
    if from_config:
        return "HF_TOKEN in .env"
    home = path_of(environ.get("HF_HOME") or "~/.cache/huggingface")
    path = path_of(environ.get("HF_TOKEN_PATH") or home / "token")
    try:
        return str(path) if path.stat().st_size else ""
    except OSError:
        return ""


def stale_files(home: Path, now: float | None = None) -> tuple[str, ...]:
    """Files in a home that were being written by something that was killed."""
    now = time.time() if now is None else now
    found = []
    for path in home.rglob("*"):
        try:
            old = now - path.lstat().st_mtime > STALE_AFTER_S
        except OSError:
            continue
        if old and _TEMPORARY.fullmatch(path.name):
            found.append(str(path))
        if len(found) >= STALE_MAX:
            break
    return tuple(sorted(found))
