"""What GPUs tell becomes metrics, with whose their memory is."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.exporter.gpus import PROCESSES_MAX, gpu_families
from penstock.exporter.owners import Kin, Owner
from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml
from penstock.telemetry.families import Families
from penstock.telemetry.gpu_driver import Driver

Samples = dict[tuple[str, ...], float]
UUID = "GPU-00000000-0000-0000-0000-000000000000"
H100 = ("0", UUID, "NVIDIA H100 80GB HBM3")


def samples(machine: FakeMachine, owners: Mapping[int, Owner] | None = None) -> dict[str, Samples]:
    families = Families()
    sight = Driver(lambda: 0.0, lambda: FakeNvml(machine)).read()
    gpu_families(families, sight, owners or {}, {7: Kin(1, 7, "vllm"), 8: Kin(1, 8, "jupyter")}.get)
    return {family.name: dict(samples) for family, samples in families}


def test_every_value_has_the_index_the_uuid_and_the_name_of_its_gpu() -> None:
    found = samples(FakeMachine(gpus=[FakeGpu(temperature_c=91, throttle=["HwThermalSlowdown"])]))

    assert found["penstock_gpu_driver_up"] == {("",): 1}
    assert found["penstock_gpu_driver_info"] == {("570.86.15", "12.8"): 1}
    assert found["penstock_gpu_up"] == {H100: 1}
    assert found["penstock_gpu_temperature_celsius"] == {H100: 91}
    assert found["penstock_gpu_throttle"][*H100, "hw_thermal"] == 1
    assert found["penstock_gpu_throttle"][*H100, "sw_power_cap"] == 0
    assert found["penstock_gpu_ecc_errors_total"] == {(*H100, "corrected"): 0, (*H100, "uncorrected"): 0}


def test_xids_are_there_before_the_first_one() -> None:
    found = samples(FakeMachine())

    assert set(found["penstock_gpu_xid_errors_total"].values()) == {0}
    assert len(found["penstock_gpu_xid_errors_total"]) == 6
    assert found["penstock_gpu_xid_last_code"] == {H100: 0}


def test_memory_is_told_by_process_with_its_replica_and_what_has_none_is_an_orphan() -> None:
    gpu = FakeGpu(processes={7: 40_000, 8: 1_000, 9: 24})

    found = samples(FakeMachine(gpus=[gpu]), {7: Owner("llama-0", "llama", 7)})

    assert found["penstock_gpu_process_memory_bytes"] == {
        (*H100, "7", "vllm", "llama-0", "llama"): 40_000,
        (*H100, "8", "jupyter", "", ""): 1_000,
        (*H100, "9", "", "", ""): 24,
    }
    assert found["penstock_gpu_orphan_processes"] == {H100: 2}
    assert found["penstock_gpu_orphan_memory_bytes"] == {H100: 1_024}


def test_processes_without_end_are_one_series() -> None:
    gpu = FakeGpu(processes={pid: pid for pid in range(1000, 2000)})

    found = samples(FakeMachine(gpus=[gpu]))

    held = found["penstock_gpu_process_memory_bytes"]
    assert len(held) == PROCESSES_MAX + 1
    assert sum(held.values()) == found["penstock_gpu_orphan_memory_bytes"][H100] == sum(range(1000, 2000))


def test_no_processes_are_told_where_the_driver_does_not_tell_of_them() -> None:
    denied = {
        f"nvmlDeviceGet{kind}RunningProcesses": "NVML_ERROR_NO_PERMISSION"
        for kind in ("Compute", "Graphics", "MPSCompute")
    }

    found = samples(FakeMachine(gpus=[FakeGpu(errors=denied)]))

    assert "penstock_gpu_orphan_processes" not in found
    assert found["penstock_gpu_fields_absent"][*H100, "denied"] == 1


def test_a_lost_gpu_is_down_and_a_driver_that_is_gone_has_a_reason() -> None:
    lost = samples(FakeMachine(gpus=[FakeGpu(), FakeGpu(lost=True)]))
    gone = samples(FakeMachine(error="NVML_ERROR_DRIVER_NOT_LOADED"))

    assert list(lost["penstock_gpu_up"].values()) == [1, 0]
    assert gone == {"penstock_gpu_driver_up": {("driver_not_loaded",): 0}}


def test_mig_instances_have_their_memory() -> None:
    found = samples(FakeMachine(gpus=[FakeGpu(mig=[(10, 2), (10, 0)])]))

    assert sorted(found["penstock_gpu_mig_memory_used_bytes"].values()) == [0, 2 * 2**20]
