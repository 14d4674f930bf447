"""What the checks are told: gathered by `gather.py` and by what has the configuration, or made up by a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.telemetry.gpu_driver import Sight


@dataclass(frozen=True, slots=True)
class KernelXid:
    """An Xid in the kernel's log, of the GPU at this PCI address."""

    pci: str
    code: int


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs.

    Args:
        kernel_xids: since the machine was started; None where the log may not be read.
        owners: processes of replicas, and what else is ours: process id -> name.
        wanted: whether a model of the configuration needs a GPU.
    """

    sight: Sight
    kernel_xids: tuple[KernelXid, ...] | None = None
    owners: Mapping[int, str] = field(default_factory=dict)
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk under a folder, which may not be there yet."""

    folder: str
    free_bytes: int
    total_bytes: int
    inodes_free: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of this process: what holds, and how far it may be raised; -1 is no limit."""

    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The machine.

    Args:
        python: version.
        shm_bytes: size of /dev/shm; None where there is none.
        disks: by what they are for: `home`, `model cache`.
        cgroup: version, 0 for none; `cgroup_writable` says whether groups can be made below our own.
        clock_synchronized: None where the kernel does not say.
    """

    python: tuple[int, int, int]
    memory_total_bytes: int
    memory_available_bytes: int
    swap_used_bytes: int
    shm_bytes: int | None
    nofile: Limit
    memlock: Limit
    disks: Mapping[str, Disk]
    cgroup: int
    cgroup_writable: bool
    clock_synchronized: bool | None


@dataclass(frozen=True, slots=True)
class Installed:
    """A package that is an engine: its version, and the environment it is in."""

    name: str
    version: str
    where: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model of the configuration.

    Args:
        complaints: what its engine's kind, or its files, say is wrong, a sentence each.
        files: how its files were found, in words; empty where they are elsewhere.
        doubt: what may go wrong with its files, and `mend` what to do about that.
    """

    name: str
    engine: str
    complaints: tuple[str, ...] = ()
    files: str = ""
    doubt: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class SetupFacts:
    """What is installed and configured.

    Args:
        config_problems: why it can't be used; then there are no models.
        ports: name of a setting -> why a server can't listen there, empty where it can.
        running: process id of the Penstock that runs in this home; 0 for none.
        token_from: where a token of the Hugging Face Hub was found; empty for nowhere.
        hub_models: names of models that come from the Hub.
        leftovers: processes of replicas, by id, that run though nobody keeps them.
        stale_files: in the home, left by what was killed.
    """

    config_from: str
    config_problems: tuple[str, ...] = ()
    config_warnings: tuple[str, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    engines: tuple[Installed, ...] = ()
    ports: Mapping[str, str] = field(default_factory=dict)
    running: int = 0
    token_from: str = ""
    hub_models: tuple[str, ...] = ()
    leftovers: Mapping[int, str] = field(default_factory=dict)
    stale_files: tuple[str, ...] = ()
