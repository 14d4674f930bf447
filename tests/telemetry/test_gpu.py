"""GPUs as a driver tells of them: what can be used, what is free, and who holds it."""

from __future__ import annotations

import pytest

from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml
from penstock.telemetry.gpu import NoGpuError, detect, free_memory, holders
from penstock.telemetry.nvml import Reason

MIB = 2**20
A6000 = FakeGpu(name="NVIDIA RTX A6000", memory_mib=49140, used_mib=10, capability=(8, 6))


def machine(*gpus: FakeGpu, error: str = "") -> FakeNvml:
    return FakeNvml(FakeMachine(gpus=list(gpus), error=error))


def test_known_and_unknown_gpus_are_told_with_what_the_driver_says() -> None:
    strange = FakeGpu(
        name="NVIDIA Thing 9", memory_mib=20000, used_mib=5000, reserved_mib=0, capability=(9, 9)
    )
    nvml = machine(A6000, strange)

    known, other = detect({}, nvml)

    assert (known.name, known.memory_mib, known.capability, known.used_mib) == ("RTX A6000", 49140, 86, 0)
    assert (other.name, other.memory_mib, other.capability, other.used_mib) == ("Thing 9", 20000, 99, 5000)
    assert nvml.opened == 0


SECOND = "GPU-00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("1, 0", 2), (SECOND, 1), (f"1,{SECOND}", 1)])
def test_hidden_gpus_are_not_there(visible: str, count: int) -> None:
    assert len(detect({"CUDA_VISIBLE_DEVICES": visible}, machine(A6000, A6000))) == count


@pytest.mark.parametrize(
    ("nvml", "environ", "said", "reason"),
    [
        (
            machine(error="NVML_ERROR_LIBRARY_NOT_FOUND"),
            {},
            "no NVIDIA driver answers here: NVML Shared Library",
            Reason.LIBRARY_MISSING,
        ),
        (machine(error="NVML_ERROR_NO_PERMISSION"), {}, "Insufficient Permissions", Reason.DENIED),
        (
            machine(error="NVML_ERROR_LIB_RM_VERSION_MISMATCH"),
            {},
            "version mismatch",
            Reason.VERSION_MISMATCH,
        ),
        (machine(), {}, "there is no GPU here", Reason.NO_GPU),
        (machine(FakeGpu(lost=True)), {}, "there is no GPU here", Reason.NO_GPU),
        (
            machine(A6000),
            {"CUDA_VISIBLE_DEVICES": ""},
            "there is no GPU here (CUDA_VISIBLE_DEVICES=)",
            Reason.NO_GPU,
        ),
    ],
)
def test_no_gpu_is_said_plainly(nvml: FakeNvml, environ: dict[str, str], said: str, reason: Reason) -> None:
    with pytest.raises(NoGpuError) as caught:
        detect(environ, nvml)

    assert said in caught.value.message
    assert caught.value.reason is reason
    assert "--gpu" in caught.value.hint
    assert nvml.opened == 0


def test_a_lost_gpu_hides_no_other() -> None:
    nvml = machine(FakeGpu(lost=True), A6000)

    assert [gpu.name for gpu in detect({}, nvml)] == ["RTX A6000"]
    assert list(free_memory({}, nvml)) == [1]


def test_free_memory_is_told_by_index_of_the_gpus_that_may_be_used() -> None:
    nvml = machine(A6000, FakeGpu(memory_mib=100, used_mib=30, reserved_mib=10), A6000)

    assert free_memory({"CUDA_VISIBLE_DEVICES": "1"}, nvml) == {1: 60 * MIB}
    assert nvml.opened == 0


def test_holders_are_added_up_over_the_gpus_that_are_asked_for() -> None:
    nvml = machine(FakeGpu(processes={7: 5, 8: 1}), FakeGpu(processes={7: 3}), FakeGpu(processes={9: 1}))

    assert holders([0, 1], nvml) == {7: 8, 8: 1}
    assert holders([2, 63], nvml) == {9: 1}
    assert holders([], nvml) == {}


def test_a_gpu_that_does_not_tell_its_holders_is_an_error_and_no_empty_list() -> None:
    lists = [f"nvmlDeviceGet{kind}RunningProcesses" for kind in ("Compute", "Graphics", "MPSCompute")]
    denied = FakeGpu(errors=dict.fromkeys(lists, "NVML_ERROR_NO_PERMISSION"))

    for nvml, said in (
        (machine(A6000, error="NVML_ERROR_DRIVER_NOT_LOADED"), "Driver Not Loaded"),
        (machine(denied), "GPU 0 does not tell who holds its memory: denied"),
        (machine(FakeGpu(lost=True)), "GPU 0 does not tell who holds its memory: lost"),
    ):
        with pytest.raises(NoGpuError, match=said):
            holders([0], nvml)
