"""GPUs are read through everything that may happen to them and to their driver."""

from __future__ import annotations

import ctypes
from itertools import pairwise
from pathlib import Path
from typing import Any

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml, FakeScriptError
from penstock.telemetry.gpu_driver import LOST_REOPEN_S, REOPEN_MAX_S, Driver, GpuReading, Sight, read_within
from penstock.telemetry.gpu_fields import fields
from penstock.telemetry.nvml import Absence, NoGpuError, Reason
from penstock.telemetry.xids import Action

MIB = 2**20


class Machine:
    """GPUs that are read at a time that the test sets."""

    def __init__(self, *gpus: FakeGpu) -> None:
        self.now_s = 0.0
        self.nvml = FakeNvml(FakeMachine(gpus=list(gpus)))
        self.driver = Driver(lambda: self.now_s, lambda: self.nvml)

    def read(self, after_s: float = 1.0) -> Sight:
        self.now_s += after_s
        return self.driver.read()

    def one(self) -> GpuReading:
        (gpu,) = self.read().gpus
        return gpu


def test_every_field_has_its_value_in_base_units() -> None:
    numbers = {
        "NVML_FI_DEV_MEMORY_TEMP": 71,
        "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": 2_500_000_000,
        "NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR": 1,
        "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": 3,
        "NVML_FI_DEV_RETIRED_DBE": 2,
        "NVML_FI_DEV_RETIRED_PENDING": 1,
        "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 1,
    }
    gpu = Machine(
        FakeGpu(
            utilization_percent=97,
            used_mib=70000,
            power_w=612.5,
            throttle=["HwThermalSlowdown", "SwPowerCap"],
            ecc_corrected=7,
            remapped=(1, 2, 1, 0),
            nvlinks=[1, 1, 0],
            fields=numbers,
            processes={71: 5 * MIB},
        )
    ).one()

    assert gpu.absent == {}
    assert {field.name for field in fields()} == set(gpu.values)
    assert gpu.number("utilization_ratio") == 0.97
    assert gpu.number("memory_used_bytes") == 70000 * MIB
    assert gpu.number("power_watts") == 612.5
    assert gpu.number("energy_joules") == 1_000_000.0
    assert gpu.number("clock_hertz", "sm") == 345e6
    assert gpu.values["throttle"] == {
        **dict.fromkeys(("gpu_idle", "clocks_setting", "hw_slowdown", "sync_boost", "sw_thermal"), 0.0),
        "sw_power_cap": 1.0,
        "hw_thermal": 1.0,
        "hw_power_brake": 0.0,
        "display_clock": 0.0,
    }
    assert gpu.values["throttle_seconds"] == {"hw_thermal": 2.5}
    assert gpu.values["ecc_errors"] == {"corrected": 7, "uncorrected": 0}
    assert gpu.values["remapped_rows"] == {"corrected": 1, "uncorrected": 2}
    assert gpu.values["nvlinks"] == {"up": 2, "down": 1}
    assert gpu.values["nvlink_errors"] == {"replay": 3.0}
    assert gpu.number("recovery_action_code") == 1
    assert gpu.processes == {71: 5 * MIB}


@pytest.mark.parametrize(
    ("error", "absence"),
    [
        ("NVML_ERROR_NOT_SUPPORTED", Absence.UNSUPPORTED),
        ("NVML_ERROR_FUNCTION_NOT_FOUND", Absence.UNSUPPORTED),
        ("NVML_ERROR_NO_PERMISSION", Absence.DENIED),
        ("NVML_ERROR_UNKNOWN", Absence.FAILED),
        ("NVML_ERROR_RESET_REQUIRED", Absence.LOST),
    ],
)
def test_what_a_gpu_does_not_tell_is_absent_with_its_reason_and_the_rest_is_read(
    error: str, absence: Absence
) -> None:
    names = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetRemappedRows", "NVML_FI_DEV_MEMORY_TEMP")
    gpu = Machine(FakeGpu(errors=dict.fromkeys(names, error))).one()

    for field in ("power_watts", "remapped_rows", "row_remap_pending", "memory_temperature_celsius"):
        assert gpu.absent[field] is absence
        assert gpu.number(field) is None
    assert gpu.number("temperature_celsius") == 34
    assert gpu.lost is (absence is Absence.LOST)


def test_a_lost_gpu_keeps_its_name_and_is_found_again_after_its_reset() -> None:
    machine = Machine(FakeGpu(), FakeGpu(name="NVIDIA L4"))
    before = machine.read().gpus[1]

    machine.nvml.machine.gpus[1].lost = True
    well, lost = machine.read().gpus
    machine.read(LOST_REOPEN_S)  # it is looked for, in vain
    machine.read()
    machine.nvml.machine.gpus[1].lost = False
    machine.read(LOST_REOPEN_S)
    found = machine.read().gpus[1]

    assert well.values
    assert (lost.lost, lost.values, lost.name, lost.uuid) == (True, {}, "NVIDIA L4", before.uuid)
    assert (found.lost, found.number("power_watts")) == (False, 70.0)


def test_a_gpu_that_the_driver_counts_no_more_stays_lost_and_the_others_keep_their_names() -> None:
    machine = Machine(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b"))
    machine.read()
    first, second = machine.nvml.machine.gpus

    first.lost = True
    machine.read(LOST_REOPEN_S)
    machine.nvml.machine.gpus = [second]
    one = {gpu.uuid: gpu.lost for gpu in machine.read().gpus}
    machine.read(LOST_REOPEN_S)
    machine.nvml.machine.gpus = []
    none = {gpu.uuid: gpu.lost for gpu in machine.read().gpus}

    assert one == {"GPU-a": True, "GPU-b": False}
    assert none == {"GPU-a": True, "GPU-b": True}


def test_a_gpu_that_tells_no_events_is_said_to_tell_none() -> None:
    gpu = Machine(FakeGpu(errors={"nvmlDeviceRegisterEvents": "NVML_ERROR_NOT_SUPPORTED"})).one()

    assert gpu.absent["xid_errors"] is Absence.UNSUPPORTED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("NVML_ERROR_DRIVER_NOT_LOADED", Reason.DRIVER_NOT_LOADED),
        ("NVML_ERROR_LIBRARY_NOT_FOUND", Reason.LIBRARY_MISSING),
        ("NVML_ERROR_LIB_RM_VERSION_MISMATCH", Reason.VERSION_MISMATCH),
        ("NVML_ERROR_UNKNOWN", Reason.FAILED),
    ],
)
def test_a_driver_that_dies_is_said_and_found_again(error: str, reason: Reason) -> None:
    machine = Machine(FakeGpu())
    assert machine.read().gpus

    machine.nvml.machine.error = error
    gone = machine.read()
    machine.nvml.machine.error = ""
    found = machine.read(REOPEN_MAX_S)

    assert gone.gpus == ()
    assert gone.trouble is not None
    assert gone.trouble.reason is reason
    assert gone.trouble.hint
    assert (found.trouble, len(found.gpus), found.driver, found.cuda) == (None, 1, "570.86.15", "12.8")


def test_a_driver_that_stays_away_is_looked_for_less_and_less_often() -> None:
    machine = Machine(FakeGpu())
    looked = []

    def none() -> Any:
        looked.append(machine.now_s)
        raise NoGpuError("not installed")

    driver = Driver(lambda: machine.now_s, none)
    for _ in range(300):
        driver.read()
        machine.now_s += 1.0

    waits = [after - before for before, after in pairwise(looked)]
    assert waits[:6] == [1, 2, 4, 8, 16, 32]
    assert set(waits[6:]) == {REOPEN_MAX_S}


def test_xids_are_counted_by_what_they_ask_for_from_the_first_reading_on() -> None:
    machine = Machine(FakeGpu(xids=[31]), FakeGpu())
    assert set(machine.read().gpus[0].xids.values()) == {0}  # nobody knows when that one was

    machine.nvml.machine.gpus[0].xids += [79, 13, 4711, 43]
    first, second = machine.read().gpus

    assert first.xids == dict.fromkeys(Action, 0) | {
        Action.REBOOT: 1,
        Action.RESTART_APP: 2,
        Action.UNKNOWN: 1,
    }
    assert first.last_xid == 43
    assert set(second.xids.values()) == {0}


def test_xids_are_kept_while_the_driver_goes_and_comes() -> None:
    machine = Machine(FakeGpu())
    machine.read()
    machine.nvml.machine.gpus[0].xids.append(74)
    machine.read()

    machine.nvml.machine.error = "NVML_ERROR_DRIVER_NOT_LOADED"
    machine.read()
    machine.nvml.machine.error = ""

    (gpu,) = machine.read(REOPEN_MAX_S).gpus
    assert (gpu.xids[Action.RESET], gpu.last_xid) == (1, 74)


def test_an_event_is_told_by_where_its_handle_points_also_of_a_gpu_that_answers_nothing_more() -> None:
    class Opaque(ctypes.Structure):
        pass

    devices = [ctypes.create_string_buffer(1) for _ in range(2)]

    def handle(index: int) -> Any:
        return ctypes.cast(devices[index], ctypes.POINTER(Opaque))

    class Pointing(FakeNvml):
        """As the real library, which tells of a GPU by another pointer to it each time."""

        def __getattr__(self, name: str) -> Any:
            real = super().__getattr__(name)
            if name == "nvmlDeviceGetHandleByIndex":
                return lambda index: handle(real(index))
            if name == "nvmlEventSetWait_v2":
                return lambda *args: _with_device(real(*args))
            if name.startswith("nvmlDevice") and name != "nvmlDeviceGetCount":
                return lambda device, *args, **named: real(_index(device), *args, **named)
            return real

    def _with_device(event: Any) -> Any:
        event.device = handle(event.device)
        return event

    def _index(device: Any) -> int:
        at = ctypes.addressof(device.contents)
        return next(index for index, each in enumerate(devices) if ctypes.addressof(each) == at)

    nvml = Pointing(FakeMachine(gpus=[FakeGpu(), FakeGpu()]))
    driver = Driver(lambda: 0.0, lambda: nvml)
    driver.read()
    nvml.machine.gpus[1].lost = True
    nvml.machine.gpus[1].xids = [79]

    well, lost = driver.read().gpus

    assert (well.last_xid, lost.last_xid, lost.lost) == (0, 79, True)


def test_mig_instances_tell_their_memory() -> None:
    gpu = Machine(FakeGpu(mig=[(10_000, 2_000), (10_000, 0)])).one()

    assert [(each.total_bytes, each.used_bytes) for each in gpu.instances] == [
        (10_000 * MIB, 2_000 * MIB),
        (10_000 * MIB, 0),
    ]
    assert len({each.uuid for each in gpu.instances}) == 2


ERRORS = st.sampled_from([name for name in dir(pynvml) if name.startswith("NVML_ERROR_")])
FUNCTIONS = st.sampled_from(
    [
        name
        for name in dir(pynvml)
        if name.startswith(("nvmlDeviceGet", "nvmlDeviceRegister", "NVML_FI_DEV_NVLINK"))
    ]
)
EVENTS = st.one_of(
    st.tuples(st.just("error"), st.one_of(st.just(""), ERRORS)),
    st.tuples(st.just("lost"), st.booleans()),
    st.tuples(st.just("counted"), st.booleans()),
    st.tuples(st.just("field"), FUNCTIONS, ERRORS),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 90.0)), max_size=12))
def test_whatever_happens_is_told_and_survived(events: list[tuple[tuple[Any, ...], float]]) -> None:
    machine = Machine(FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b"))
    first, second = machine.nvml.machine.gpus
    machine.read()

    for (kind, *words), after_s in events:
        if kind == "error":
            (machine.nvml.machine.error,) = words
        elif kind == "lost":
            (second.lost,) = words
        elif kind == "counted":
            machine.nvml.machine.gpus = [first, second] if words[0] else [first]
        else:
            second.errors = {words[0]: words[1]}
        sight = machine.read(after_s)
        assert bool(sight.gpus) is (sight.trouble is None)
    machine.nvml.machine.error, second.lost, second.errors = "", False, {}
    machine.nvml.machine.gpus = [first, second]
    for _ in range(3):
        found = machine.read(max(REOPEN_MAX_S, LOST_REOPEN_S))

    assert {gpu.uuid: (gpu.lost, gpu.number("power_watts")) for gpu in found.gpus} == {
        "GPU-a": (False, 70.0),
        "GPU-b": (False, 70.0),
    }


def test_a_driver_that_hangs_is_given_up_by_who_asks_once() -> None:
    machine = Machine(FakeGpu())
    machine.nvml.machine.hangs = True

    sight = read_within(machine.driver, 0.05)
    machine.nvml.released.set()

    assert sight.trouble is not None
    assert sight.trouble.reason is Reason.HANGS


def test_a_bug_amid_a_reading_is_no_driver_that_hangs() -> None:
    def broken() -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        read_within(Driver(lambda: 0.0, broken), 5.0)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ('{"error": "NVML_ERROR_NOPE"}', "NVML_ERROR_NOPE"),
        ('{"gpus": [{"throttle": ["Nope"]}]}', "nvmlClocksEventReasonNope"),
        ('{"gpus": [{"errors": {"nvmlDeviceGetPowerUsage": "NOPE"}}]}', "NOPE"),
        ('{"gpus": [{"fields": {"NVML_FI_NOPE": 1}}]}', "NVML_FI_NOPE"),
    ],
)
def test_a_name_that_nvml_does_not_have_is_said_of_its_script(tmp_path: Path, script: str, name: str) -> None:
    (tmp_path / "gpus.json").write_text(script)

    with pytest.raises(FakeScriptError, match=f"NVML has no {name}"):
        FakeNvml(script=tmp_path / "gpus.json")


def test_the_driver_is_let_go() -> None:
    machine = Machine(FakeGpu())
    machine.read()

    machine.driver.close()
    machine.driver.close()

    assert machine.nvml.opened == 0


def test_every_name_that_is_asked_for_is_one_of_the_real_library() -> None:
    asked = Machine(FakeGpu())
    asked.read()  # the fake refuses names that the real one has not

    with pytest.raises(AttributeError):
        _ = asked.nvml.nvmlDeviceGetEverything
    assert asked.nvml.NVML_CLOCK_SM == pynvml.NVML_CLOCK_SM
    assert str(asked.nvml.error("NVML_ERROR_GPU_IS_LOST")) == "GPU is lost"


def test_an_older_library_that_lacks_names_tells_the_rest() -> None:
    class Older(FakeNvml):
        def __getattr__(self, name: str) -> Any:
            missing = ("nvmlDeviceGetRemappedRows", "nvmlMemory_v2", "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION")
            return getattr(pynvml, f"{name}_missing") if name in missing else super().__getattr__(name)

    (gpu,) = Driver(lambda: 0.0, Older).read().gpus

    assert gpu.absent["remapped_rows"] is Absence.UNSUPPORTED
    assert gpu.absent["recovery_action_code"] is Absence.UNSUPPORTED
    assert gpu.number("memory_used_bytes") == 950 * MIB  # what is reserved is used, by the first account


def test_the_real_library_answers_here_as_it_must() -> None:
    sight = Driver(lambda: 0.0).read()

    assert sight.gpus or sight.trouble is not None
