"""What GPUs tell becomes findings, each with how to mend it."""

from __future__ import annotations

import pytest

from penstock.doctor.facts import GpuFacts, KernelXid
from penstock.doctor.finding import Finding, Level, any_fails
from penstock.doctor.gpu_checks import gpu_findings
from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml
from penstock.telemetry.gpu_driver import Driver, Sight

IDLE = {"NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 0}


def sight(*gpus: FakeGpu, **machine: object) -> Sight:
    nvml = FakeNvml(FakeMachine(gpus=list(gpus), **machine))  # type: ignore[arg-type]
    return Driver(lambda: 0.0, lambda: nvml).read()


def found(*gpus: FakeGpu, **facts: object) -> list[Finding]:
    return list(gpu_findings(GpuFacts(sight(*gpus), **{"kernel_xids": (), **facts})))  # type: ignore[arg-type]


def test_a_machine_that_is_well_has_nothing_to_mend() -> None:
    findings = found(FakeGpu(), FakeGpu())

    assert {finding.level for finding in findings} == {Level.OK}
    assert [finding.subject for finding in findings] == ["driver", "gpu 0", "gpu 1", "xids"]
    assert findings[0].seen == "NVIDIA 570.86.15, CUDA 12.8, 2 GPUs"
    assert findings[1].seen == "NVIDIA H100 80GB HBM3, 0.5 of 79.6 GiB used, 34 C, 70 W"


@pytest.mark.parametrize(
    ("gpu", "level", "subject", "seen"),
    [
        (FakeGpu(fields={"NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 2}), "fail", "recovery", "node_reboot"),
        (FakeGpu(fields={"NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 77}), "fail", "recovery", "action 77"),
        (FakeGpu(remapped=(0, 1, 0, 1)), "fail", "memory", "could not be remapped"),
        (FakeGpu(remapped=(0, 1, 1, 0)), "warn", "memory", "waits for a reset"),
        (FakeGpu(fields={**IDLE, "NVML_FI_DEV_RETIRED_PENDING": 1}), "warn", "memory", "waits for a reset"),
        (FakeGpu(ecc_uncorrected=3), "fail", "memory", "3 uncorrected"),
        (FakeGpu(throttle=["HwThermalSlowdown"]), "warn", "clocks", "hw_thermal"),
        (FakeGpu(temperature_c=86), "warn", "heat", "86 C: 1 C below where it slows down"),
        (FakeGpu(temperature_c=91), "warn", "heat", "91 C: 4 C above where it slows down"),
        (
            FakeGpu(temperature_c=86, errors={"nvmlDeviceGetMarginTemperature": "NVML_ERROR_NOT_SUPPORTED"}),
            *("warn", "heat", "86 C: 1 C below"),
        ),
        (FakeGpu(nvlinks=[1, 0, 0]), "warn", "nvlink", "2 of 3"),
        (FakeGpu(pcie_width=4), "warn", "pcie", "4 lanes of 16"),
        (FakeGpu(persistence=False), "warn", "persistence", "off"),
        (
            FakeGpu(errors={"nvmlDeviceGetTotalEccErrors": "NVML_ERROR_NO_PERMISSION"}),
            "warn",
            "fields",
            "ecc_errors, ecc_errors_lifetime",
        ),
    ],
)
def test_each_ill_is_found_with_what_mends_it(gpu: FakeGpu, level: str, subject: str, seen: str) -> None:
    (finding,) = [each for each in found(gpu) if each.level is not Level.OK]

    assert (finding.level, finding.subject) == (level, f"gpu 0 {subject}")
    assert seen in finding.seen
    assert finding.mend
    assert "{" not in finding.mend


def test_what_is_a_setting_or_idleness_is_no_ill() -> None:
    findings = found(FakeGpu(throttle=["GpuIdle", "SwPowerCap", "ApplicationsClocksSetting"]))

    assert {finding.level for finding in findings} == {Level.OK}


def test_a_gpu_that_is_lost_fails_and_is_not_examined_further() -> None:
    findings = found(FakeGpu(), FakeGpu(lost=True))

    assert [each.subject for each in findings if each.level is Level.FAIL] == ["gpu 1"]


@pytest.mark.parametrize(("wanted", "level"), [(True, Level.FAIL), (False, Level.SKIP)])
def test_no_driver_is_an_ill_only_where_a_model_needs_one(wanted: bool, level: Level) -> None:
    none = sight(error="NVML_ERROR_LIBRARY_NOT_FOUND")

    (finding,) = gpu_findings(GpuFacts(none, wanted=wanted))

    assert finding.level is level


def test_a_driver_that_is_there_and_broken_is_always_an_ill() -> None:
    for error in ("NVML_ERROR_LIB_RM_VERSION_MISMATCH", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_UNKNOWN"):
        (finding,) = gpu_findings(GpuFacts(sight(error=error)))

        assert finding.level is Level.FAIL
        assert finding.mend


def test_an_old_driver_is_told() -> None:
    (finding, *_) = gpu_findings(GpuFacts(sight(FakeGpu(), cuda=11040)))

    assert finding.level is Level.WARN
    assert "CUDA 11.4" in finding.seen


def test_xids_of_the_kernel_are_told_by_what_they_ask_for() -> None:
    log = (KernelXid("0000:01:00", 79), KernelXid("0000:01:00", 31), KernelXid("0000:01:00", 31))

    restart, fall = (each for each in found(FakeGpu(), kernel_xids=log) if each.subject == "xids")

    assert (fall.level, restart.level) == (Level.FAIL, Level.WARN)
    assert "Xid 79" in fall.seen
    assert "Xid 31 of 0000:01:00, 2 times" in restart.seen


def test_a_harmless_xid_is_no_ill_and_an_unreadable_log_is_skipped() -> None:
    harmless = found(FakeGpu(), kernel_xids=(KernelXid("a", 45),))
    unread = found(FakeGpu(), kernel_xids=None)

    assert harmless[-1].level is Level.OK
    assert unread[-1].level is Level.SKIP


def test_memory_held_by_no_replica_is_told_with_its_processes() -> None:
    findings = found(FakeGpu(processes={7: 2**30, 8: 2**30, 9: 2**31}), owners={8: "llama-0"})

    (held,) = [each for each in findings if "holders" in each.subject]
    assert held.seen == "3.0 GiB are held by what is no replica of this home: pid 7, 9"
    assert not any_fails(findings)
