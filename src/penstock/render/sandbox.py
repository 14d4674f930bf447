"""What a unit may not do: as much as its part can go without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_CLOSED = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "PrivateMounts=yes",
    "ProtectProc=invisible",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=@system-service",
)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a part can't go without.

    Args:
        compiles: it makes machine code while it runs, and places its memory and threads: engines do.
        uses_gpu: it opens devices.
        has_groups: it has control groups below its own.
        binds_low_port: it listens on a port below 1024.
        lives_in_home: what it runs or reads is in somebody's home.
    """

    compiles: bool
    uses_gpu: bool
    has_groups: bool
    binds_low_port: bool
    lives_in_home: bool


def sandbox(needs: Sandbox) -> Iterator[str]:
    """The lines of the section `Service`."""
    yield ""
    yield from _CLOSED
    yield from _system_calls(needs)
    if needs.lives_in_home:
        yield "# A program or a model is in a home."
    yield f"ProtectHome={'read-only' if needs.lives_in_home else 'yes'}"
    capability = "CAP_NET_BIND_SERVICE" if needs.binds_low_port else ""
    yield f"CapabilityBoundingSet={capability}"
    yield f"AmbientCapabilities={capability}"
    if not needs.has_groups:
        yield "ProtectControlGroups=yes"
    yield from _devices(needs)


def _system_calls(needs: Sandbox) -> Iterator[str]:
    if needs.compiles:
        yield "SystemCallFilter=~@privileged"
        yield "# PyTorch shares memory between GPUs by it."
        yield "SystemCallFilter=pidfd_getfd"
        yield "# Netlink: GPUs and machines find each other's addresses by it (NCCL, Gloo)."
        yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
        yield "# No MemoryDenyWriteExecute: CUDA, Triton and PyTorch compile kernels while they run."
    else:
        yield "SystemCallFilter=~@privileged @resources"
        yield "# The ledger is kept with less priority than requests have."
        yield "SystemCallFilter=setpriority"
        yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"
        yield "MemoryDenyWriteExecute=yes"


def _devices(needs: Sandbox) -> Iterator[str]:
    if not needs.uses_gpu:
        yield "PrivateDevices=yes"
        return
    yield "# In place of PrivateDevices: GPUs of NVIDIA, and of AMD and Intel. Their drivers have to be loaded before."
    yield "DevicePolicy=closed"
    for device in ("char-nvidia*", "char-drm", "char-kfd"):
        yield f"DeviceAllow={device} rw"
