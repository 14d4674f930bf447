"""GPUs as a driver tells of them: a stand-in for pynvml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from penstock.telemetry.gpu import NoGpuError, detect

MIB = 2**20


@dataclass
class Memory:
    total: int
    used: int


class Nvml:
    """The few functions of pynvml that are used."""

    class NVMLError(Exception): ...

    def __init__(self, *devices: tuple[Any, int, int, tuple[int, int]], broken: str = "") -> None:
        self.devices, self.broken, self.open = devices, broken, 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if self.broken:
            raise self.NVMLError(self.broken)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> Any:  # noqa: N802
        return self.devices[handle][0]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        return Memory(self.devices[handle][1] * MIB, self.devices[handle][2] * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return self.devices[handle][3]


A6000 = ("NVIDIA RTX A6000", 49140, 460, (8, 6))
UNKNOWN = (b"NVIDIA Thing 9", 20000, 5000, (9, 9))


def test_known_and_unknown_gpus_are_told_with_what_the_driver_says() -> None:
    nvml = Nvml(A6000, UNKNOWN)

    known, other = detect({}, nvml)

    assert (known.name, known.memory_mib, known.capability, known.used_mib) == ("RTX A6000", 49140, 86, 0)
    assert (other.name, other.memory_mib, other.capability, other.used_mib) == ("Thing 9", 20000, 99, 5000)
    assert nvml.open == 0


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("1, 0", 2), ("GPU-1", 1), ("0,GPU-0", 1)])
def test_hidden_gpus_are_not_there(visible: str, count: int) -> None:
    assert len(detect({"CUDA_VISIBLE_DEVICES": visible}, Nvml(A6000, A6000))) == count


@pytest.mark.parametrize(
    ("nvml", "environ", "said"),
    [
        (
            Nvml(broken="NVML Shared Library Not Found"),
            {},
            "no NVIDIA driver answers here: NVML Shared Library",
        ),
        (Nvml(), {}, "there is no GPU here"),
        (Nvml(A6000), {"CUDA_VISIBLE_DEVICES": ""}, "there is no GPU here (CUDA_VISIBLE_DEVICES=)"),
    ],
)
def test_no_gpu_is_said_plainly(nvml: Nvml, environ: dict[str, str], said: str) -> None:
    with pytest.raises(NoGpuError) as caught:
        detect(environ, nvml)

    assert said in caught.value.message
    assert "--gpu" in caught.value.hint
