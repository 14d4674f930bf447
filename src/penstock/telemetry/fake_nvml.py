"""A machine with GPUs that are not there: stands in for `pynvml` in tests, drills and dashboards.

Names and numbers are those of the real module: one that it does not have is an AttributeError here too, and a
function of it that is not played here is one that these GPUs do not support. What the GPUs tell is set on the
`FakeGpu`s while they are in use, or written to a file that is read again whenever it has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from penstock.core.errors import PenstockError
from penstock.telemetry.nvml import load

MIB = 2**20
SCRIPT_BYTES_MAX = 2**20
HANG_S_MAX = 60.0
SLOWDOWN_C = 87


class FakeGpu(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One GPU that is not there; an idle H100 unless it says otherwise.

    Args:
        processes: bytes by process id, of those that compute.
        throttle: reasons, as `HwThermalSlowdown`.
        remapped: rows remapped for corrected and for uncorrected errors, whether one is pending, whether one failed.
        lost: it has fallen off its bus.
        errors: NVML's functions (`nvmlDeviceGetPowerUsage`) or field ids (`NVML_FI_DEV_ENERGY`) that fail, and with
            which error, as `NVML_ERROR_NOT_SUPPORTED`.
        fields: values of field ids, as `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`; others are not supported.
        xids: events that have happened; new ones are put behind the others.
        mig: memory of each MIG instance, total and used, in MiB; None where MIG is off.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = ""
    memory_mib: int = 81559
    used_mib: int = 500
    reserved_mib: int = 450
    capability: tuple[int, int] = (9, 0)
    processes: dict[int, int] = msgspec.field(default_factory=dict)
    utilization_percent: int = 0
    memory_utilization_percent: int = 0
    power_w: float = 70.0
    power_limit_w: float = 700.0
    energy_j: float = 1_000_000.0
    temperature_c: int = 34
    sm_clock_mhz: int = 345
    memory_clock_mhz: int = 2619
    throttle: list[str] = []
    ecc_corrected: int = 0
    ecc_uncorrected: int = 0
    remapped: tuple[int, int, int, int] = (0, 0, 0, 0)
    pcie_replays: int = 0
    pcie_width: int = 16
    nvlinks: list[int] = []
    persistence: bool = True
    lost: bool = False
    errors: dict[str, str] = {}
    fields: dict[str, int] = msgspec.field(default_factory=lambda: {"NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 0})
    xids: list[int] = []
    mig: list[tuple[int, int]] | None = None


class FakeMachine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The machine.

    Args:
        error: every call fails with it, as `NVML_ERROR_DRIVER_NOT_LOADED`; empty where the driver is well.
        hangs: calls do not return.
    """

    gpus: list[FakeGpu] = msgspec.field(default_factory=lambda: [FakeGpu()])
    error: str = ""
    hangs: bool = False
    driver: str = "570.86.15"
    cuda: int = 12080


class FakeScriptError(PenstockError):
    """The file that says what the GPUs tell can't be used."""

    code = "fake_gpus"


class FakeNvml:
    """`pynvml`, of that machine.

    Args:
        machine: may be changed at any time.
        script: a JSON file with the members of a `FakeMachine`, read again when it changes; instead of `machine`.

    Raises:
        FakeScriptError: the file can't be read.
    """

    def __init__(self, machine: FakeMachine | None = None, script: Path | None = None) -> None:
        self._real = load()
        self._script, self._stamp = script, 0
        self.machine = machine or FakeMachine()
        self.opened = 0
        self.released = threading.Event()
        self._told: dict[int, int] = {}  # GPU -> events that were waited for, or came before the event set
        if script is not None:
            self._stamp, self.machine = _read(script)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not (name.startswith("nvml") and callable(real)):
            return real
        return partial(self._system, name) if name in _SYSTEM else partial(self._device, name)

    def error(self, name: str) -> Exception:
        """An error of NVML by its name."""
        error: Exception = self._real.NVMLError(getattr(self._real, name))
        return error

    def watch_events(self) -> object:
        """A set of events, of those that are yet to happen."""
        self._told = {index: len(gpu.xids) for index, gpu in enumerate(self.machine.gpus)}
        return object()

    def next_event(self) -> Any:
        """The next event, or its time-out."""
        for index, gpu in enumerate(self.machine.gpus):
            told = self._told.get(index, 0)
            if told < len(gpu.xids):
                self._told[index] = told + 1
                return SimpleNamespace(
                    device=index, eventType=self._real.nvmlEventTypeXidCriticalError, eventData=gpu.xids[told]
                )
        raise self.error("NVML_ERROR_TIMEOUT")

    def _system(self, name: str, *args: Any) -> Any:
        self._alive(opens=name == "nvmlInit")
        return _SYSTEM[name](self, *args)

    def _device(self, name: str, handle: Any = 0, *args: Any, **named: Any) -> Any:
        self._alive()
        index, *instance = handle if isinstance(handle, tuple) else (handle,)
        if index >= len(self.machine.gpus) or self.machine.gpus[index].lost:
            raise self.error("NVML_ERROR_GPU_IS_LOST")
        gpu = self.machine.gpus[index]
        if name in gpu.errors:
            raise self.error(gpu.errors[name])
        if name not in _DEVICE:
            raise self.error("NVML_ERROR_NOT_SUPPORTED")
        return _DEVICE[name](self, gpu, index, *instance, *args, **named)

    def _alive(self, *, opens: bool = False) -> None:
        self._refresh()
        if self.machine.hangs:
            self.released.wait(HANG_S_MAX)
        if self.machine.error:
            raise self.error(self.machine.error)
        if not opens and not self.opened:
            raise self.error("NVML_ERROR_UNINITIALIZED")

    def _refresh(self) -> None:
        if self._script is None or (stamp := _stamp(self._script)) in (0, self._stamp):
            return
        self._stamp = stamp
        with suppress(FakeScriptError):  # half written: what was told goes on
            _, self.machine = _read(self._script)


def library(script: Path | None) -> Callable[[], Any]:
    """What makes the library: of the GPUs that a file describes, or the real one where there is no file.

    Raises:
        FakeScriptError: the file can't be read.
    """
    if script is None:
        return load
    fake = FakeNvml(script=script)
    return lambda: fake


def _read(script: Path) -> tuple[int, FakeMachine]:
    try:
        stamp, data = _stamp(script), script.read_bytes()[:SCRIPT_BYTES_MAX]
        machine = msgspec.json.decode(data, type=FakeMachine)
        if (
            unknown := next((name for name in _names(machine) if not hasattr(load(), name)), None)
        ) is not None:
            raise ValueError(f"NVML has no {unknown}")
        return stamp, machine
    except (OSError, ValueError) as error:  # msgspec's are ValueErrors
        raise FakeScriptError(
            f"{script}: {error}", hint='write it as {"gpus": [{"temperature_c": 91}]}, and replace it whole'
        ) from None


def _names(machine: FakeMachine) -> Iterator[str]:
    """The names of the real module that are taken on trust."""
    if machine.error:
        yield machine.error
    for gpu in machine.gpus:
        yield from (*gpu.errors, *gpu.errors.values(), *gpu.fields)
        yield from (f"nvmlClocksEventReason{reason}" for reason in gpu.throttle)


def _stamp(script: Path) -> int:
    try:
        return script.stat().st_mtime_ns
    except OSError:
        return 0


def _open(fake: FakeNvml, by: int) -> None:
    fake.opened += by


def _handle(fake: FakeNvml, index: int) -> int:
    if fake.machine.gpus[index].lost:
        raise fake.error("NVML_ERROR_GPU_IS_LOST")
    return index


_SYSTEM: dict[str, Callable[..., Any]] = {
    "nvmlInit": lambda fake: _open(fake, 1),
    "nvmlShutdown": lambda fake: _open(fake, -1),
    "nvmlDeviceGetCount": lambda fake: len(fake.machine.gpus),
    "nvmlDeviceGetHandleByIndex": _handle,
    "nvmlSystemGetDriverVersion": lambda fake: fake.machine.driver,
    "nvmlSystemGetCudaDriverVersion_v2": lambda fake: fake.machine.cuda,
    "nvmlEventSetCreate": lambda fake: fake.watch_events(),
    "nvmlEventSetFree": lambda *_: None,
    "nvmlEventSetWait_v2": lambda fake, *_: fake.next_event(),
}


def _memory(_: FakeNvml, gpu: FakeGpu, *instance: int, version: int | None = None) -> SimpleNamespace:
    """By the first account, what the driver keeps for itself is used as well, as with the real one."""
    if len(instance) > 1:
        assert gpu.mig is not None
        total, used, reserved = *gpu.mig[instance[1]], 0
    else:
        total, used, reserved = gpu.memory_mib, gpu.used_mib, gpu.reserved_mib
    free = (total - used - reserved) * MIB
    if version is None:
        return SimpleNamespace(total=total * MIB, free=free, used=(used + reserved) * MIB)
    return SimpleNamespace(total=total * MIB, free=free, used=used * MIB, reserved=reserved * MIB)


def _fields(fake: FakeNvml, gpu: FakeGpu, _: int, ids: list[int]) -> list[SimpleNamespace]:
    real = fake._real
    values = {getattr(real, name): value for name, value in gpu.fields.items()}
    broken = {getattr(real, name): error for name, error in gpu.errors.items() if name.startswith("NVML_FI")}
    return [
        SimpleNamespace(
            fieldId=each,
            nvmlReturn=getattr(real, broken.get(each, ""), 0)
            if each in broken
            else 0
            if each in values
            else 3,
            valueType=real.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
            value=SimpleNamespace(ullVal=values.get(each, 0)),
        )
        for each in ids
    ]


def _reasons(fake: FakeNvml, gpu: FakeGpu, _: int) -> int:
    return sum(getattr(fake._real, f"nvmlClocksEventReason{reason}") for reason in gpu.throttle)


def _processes(_: FakeNvml, gpu: FakeGpu, __: int) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=held, gpuInstanceId=0xFFFFFFFF, computeInstanceId=0xFFFFFFFF)
        for pid, held in gpu.processes.items()
    ]


def _link(fake: FakeNvml, gpu: FakeGpu, _: int, link: int) -> int:
    if link >= len(gpu.nvlinks):
        raise fake.error("NVML_ERROR_INVALID_ARGUMENT" if gpu.nvlinks else "NVML_ERROR_NOT_SUPPORTED")
    return gpu.nvlinks[link]


def _instance(fake: FakeNvml, gpu: FakeGpu, index: int, number: int) -> tuple[int, int]:
    if gpu.mig is None or number >= len(gpu.mig):
        raise fake.error("NVML_ERROR_NOT_FOUND")
    return index, number


def _uuid(_: FakeNvml, gpu: FakeGpu, *instance: int) -> str:
    own = gpu.uuid or f"GPU-00000000-0000-0000-0000-{instance[0]:012d}"
    return own if len(instance) == 1 else f"MIG-{own[4:-1]}{instance[1]}"


_DEVICE: dict[str, Callable[..., Any]] = {
    "nvmlDeviceGetUUID": _uuid,
    "nvmlDeviceGetName": lambda _, gpu, *__: gpu.name,
    "nvmlDeviceGetPciInfo": lambda _, __, index: SimpleNamespace(busId=f"00000000:{index + 1:02X}:00.0"),
    "nvmlDeviceGetCudaComputeCapability": lambda _, gpu, *__: gpu.capability,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetUtilizationRates": lambda _, gpu, *__: SimpleNamespace(
        gpu=gpu.utilization_percent, memory=gpu.memory_utilization_percent
    ),
    "nvmlDeviceGetPowerUsage": lambda _, gpu, *__: round(gpu.power_w * 1000),
    "nvmlDeviceGetEnforcedPowerLimit": lambda _, gpu, *__: round(gpu.power_limit_w * 1000),
    "nvmlDeviceGetTotalEnergyConsumption": lambda _, gpu, *__: round(gpu.energy_j * 1000),
    "nvmlDeviceGetTemperature": lambda _, gpu, *__: gpu.temperature_c,
    "nvmlDeviceGetTemperatureThreshold": lambda *_: SLOWDOWN_C,
    "nvmlDeviceGetMarginTemperature": lambda _, gpu, *__: SLOWDOWN_C - gpu.temperature_c,
    "nvmlDeviceGetClockInfo": lambda fake, gpu, _, kind: (
        gpu.memory_clock_mhz if kind == fake.NVML_CLOCK_MEM else gpu.sm_clock_mhz
    ),
    "nvmlDeviceGetMaxClockInfo": lambda fake, _, __, kind: 2619 if kind == fake.NVML_CLOCK_MEM else 1980,
    "nvmlDeviceGetCurrentClocksEventReasons": _reasons,
    "nvmlDeviceGetEccMode": lambda *_: [1, 1],
    "nvmlDeviceGetTotalEccErrors": lambda fake, gpu, _, kind, __: (
        gpu.ecc_corrected if kind == fake.NVML_MEMORY_ERROR_TYPE_CORRECTED else gpu.ecc_uncorrected
    ),
    "nvmlDeviceGetRemappedRows": lambda _, gpu, *__: gpu.remapped,
    "nvmlDeviceGetPcieReplayCounter": lambda _, gpu, *__: gpu.pcie_replays,
    "nvmlDeviceGetCurrPcieLinkGeneration": lambda *_: 5,
    "nvmlDeviceGetMaxPcieLinkGeneration": lambda *_: 5,
    "nvmlDeviceGetCurrPcieLinkWidth": lambda _, gpu, *__: gpu.pcie_width,
    "nvmlDeviceGetMaxPcieLinkWidth": lambda *_: 16,
    "nvmlDeviceGetNvLinkState": _link,
    "nvmlDeviceGetPersistenceMode": lambda _, gpu, *__: int(gpu.persistence),
    "nvmlDeviceGetMigMode": lambda _, gpu, *__: [int(gpu.mig is not None)] * 2,
    "nvmlDeviceGetMaxMigDeviceCount": lambda _, gpu, *__: 7 if gpu.mig is not None else 0,
    "nvmlDeviceGetMigDeviceHandleByIndex": _instance,
    "nvmlDeviceGetPerformanceState": lambda *_: 0,
    "nvmlDeviceGetFieldValues": _fields,
    "nvmlDeviceGetComputeRunningProcesses": _processes,
    "nvmlDeviceGetGraphicsRunningProcesses": lambda *_: [],
    "nvmlDeviceGetMPSComputeRunningProcesses": lambda *_: [],
    "nvmlDeviceGetSupportedEventTypes": lambda fake, *_: fake.nvmlEventTypeXidCriticalError,
    "nvmlDeviceRegisterEvents": lambda *_: None,
}
