"""The GPU that is checked: the first one of the driver, or one that is not there and follows the replicas."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from penstock.store.runtime import Registry
from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, library
from penstock.telemetry.gpu import holders
from penstock.telemetry.gpu_driver import Driver, Sight
from penstock.telemetry.nvml import load

GPU = 0
MIB = 2**20
FAKE_REPLICA_BYTES = 20 * 2**30


class Vram:
    """The memory of the GPU.

    Args:
        nvml: makes the library of the driver.
    """

    script: Path | None = None
    """What `penstock exporter --fake-gpus` is given."""

    def __init__(self, nvml: Callable[[], Any] = load) -> None:
        self._nvml = nvml
        self.driver = Driver(time.monotonic, nvml)

    def look(self) -> Sight:
        """All GPUs, now."""
        return self.driver.read()

    def holders(self) -> dict[int, int]:
        """Bytes of the GPU by process."""
        return holders([GPU], self._nvml())

    def used_bytes(self) -> int:
        """What programs hold of the GPU, by the driver."""
        gpu = self.look().gpus[GPU]
        return int(gpu.number("memory_used_bytes") or 0)


class FakeVram(Vram):
    """A GPU that is not there: every living process of a registered replica holds some of it.

    Args:
        registry: of the replicas.
        folder: for the file that describes the GPU.
    """

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.script = folder / "gpus.json"
        self._registry = registry
        self.follow()
        super().__init__(library(self.script))

    def look(self) -> Sight:
        """All GPUs, after the fake one has followed the replicas."""
        self.follow()
        return super().look()

    def holders(self) -> dict[int, int]:
        """As the real ones."""
        self.follow()
        return super().holders()

    def follow(self) -> None:
        """Gives memory to what lives, and takes it from what does not."""
        assert self.script is not None
        living = [each.pid for each in self._registry.registrations() if psutil.pid_exists(each.pid)]
        held = dict.fromkeys(living, FAKE_REPLICA_BYTES)
        gpu = FakeGpu(processes=held, used_mib=500 + sum(held.values()) // MIB, nvlinks=[1, 1])
        fresh = self.script.with_name("fresh.json")
        fresh.write_bytes(msgspec.json.encode(FakeMachine(gpus=[gpu])))
        fresh.replace(self.script)
